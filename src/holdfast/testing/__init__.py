"""What proves a part of Holdfast, for whoever writes another one: contracts of structures, and a harness for faults."""
