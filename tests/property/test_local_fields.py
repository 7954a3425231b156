"""Fields that are marked local stay, and stay here."""

import holdfast


def test_a_replacement_from_elsewhere_keeps_the_fields_that_never_leave_this_file(tmp_path):
    here, there = (holdfast.open(tmp_path / name) for name in ("here.hold", "there.hold"))
    mine = here.dict("files", merge="fields", local=["imported"])
    mine["a"] = {"title": "one", "imported": True}
    there.apply(here.since(0))
    theirs = there.dict("files", merge="fields", local=["imported"])
    assert theirs["a"] == {"title": "one"}

    theirs["a"] = {"title": "two"}
    here.apply(there.since(0))
    assert mine["a"] == {"title": "two", "imported": True}
    here.fold()
    assert mine["a"] == {"title": "two", "imported": True} and here.check() == []
    there.close()
    here.close()


def test_local_fields_are_in_no_byte_that_leaves(tmp_path):
    with holdfast.open(tmp_path / "here.hold") as here:
        files = here.dict("files", merge="fields", local=["secret"])
        private = here.dict("private", local=True)
        for key in ("a", "b"):
            files[key] = {"title": "x", "secret": "never-leaves"}
            private[key] = "never-leaves"
        files["a"]["secret"] = "never-leaves, again"
        marked = here.dict("marked")
        marked["k"] = "never-leaves either"
        marked.mark("k", local=True)
        assert b"never-leaves" not in here.since(0).to_bytes()
