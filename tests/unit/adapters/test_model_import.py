"""Bringing models in: from folders and archives, resumably, into a store without duplicates."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.support import gguf_files, model_folders
from tests.support.model_folders import contents, write

from daulat.adapters import model_copy, model_import, model_sources
from daulat.adapters.model_copy import Staging
from daulat.adapters.model_import import Wishes
from daulat.adapters.models import ModelStore
from daulat.core import manifest
from daulat.errors import ConfigError, Conflict, NotFound, SealBroken
from daulat.registry.gguf import BadModel

FILES = contents()
GGUF = gguf_files.make(gguf_files.KEYS)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def tar(members: Mapping[str, bytes], *more: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return out.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def in_folder(members: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"DeepSeek-Tiny/{name}": data for name, data in members.items()}


WAYS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda folder: write(folder / "DeepSeek-Tiny", {**FILES, ".gitattributes": b"x"}),
    "tar": lambda folder: saved(folder / "DeepSeek-Tiny.tar", tar(in_folder(FILES))),
    "tar.gz": lambda folder: saved(folder / "DeepSeek-Tiny.tar.gz", gzip.compress(tar(in_folder(FILES)))),
    "tar.zst": lambda folder: saved(folder / "DeepSeek-Tiny.tar.zst", zstandard.compress(tar(FILES))),
    "zip": lambda folder: saved(folder / "DeepSeek-Tiny.zip", zipped(in_folder(FILES))),
    "wheel": lambda folder: saved(
        folder / "DeepSeek-Tiny.whl",
        zipped({**in_folder(FILES), "pack/__init__.py": b"import os", "pack-1.dist-info/RECORD": b""}),
    ),
}


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("way", WAYS)
def test_a_model_is_the_same_whichever_way_it_comes(store: ModelStore, tmp_path: Path, way: str) -> None:
    facts = model_import.add(store, WAYS[way](tmp_path))
    expected = [manifest.ModelFile(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in FILES.items()]
    assert facts.digest == manifest.digest(expected)
    assert facts.name == "deepseek-tiny"
    folder = store.path(facts.digest)
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")} == FILES
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in folder.iterdir())
    assert store.verified(facts.digest) == folder
    assert [path.name for path in store.folder.iterdir() if path.name.startswith(".")] == []


def test_the_same_file_is_stored_once_however_many_models_have_it(store: ModelStore, tmp_path: Path) -> None:
    first = model_import.add(store, write(tmp_path / "one", FILES))
    second = model_import.add(
        store, write(tmp_path / "two", contents(**{"README.md": b"---\nlicense: mit\n---\nmore"}))
    )
    assert first.digest != second.digest
    shard = "model-00001-of-00002.safetensors"
    assert (store.path(first.digest) / shard).samefile(store.path(second.digest) / shard)
    assert len(list((store.folder / "files").iterdir())) == len(FILES) + 1
    again = model_import.add(store, tmp_path / "one", Wishes(name="renamed", licence="Apache-2.0"))
    assert (again.digest, again.name, again.licence) == (first.digest, "renamed", "apache-2.0")
    assert {facts.name for facts in store.all()} == {"renamed", "two"}


def test_a_split_gguf_keeps_its_parts_names(store: ModelStore, tmp_path: Path) -> None:
    files = model_folders.split_gguf()
    write(tmp_path, files)
    facts = model_import.add(store, tmp_path / list(files)[1])
    assert store.path(facts.digest).name == "big-00001-of-00003.gguf"
    assert store.verified(facts.digest).parent.joinpath("big-00003-of-00003.gguf").exists()
    assert store.find(facts.name).files == facts.files


@pytest.mark.parametrize("changed", ["config.json", "model-00002-of-00002.safetensors", "LICENSE"])
def test_a_changed_byte_of_any_file_is_found_and_mended_by_importing_again(
    store: ModelStore, tmp_path: Path, changed: str
) -> None:
    source = write(tmp_path / "m", FILES)
    facts = model_import.add(store, source)
    path = store.path(facts.digest) / changed
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(SealBroken, match=f"{changed} has changed"):
        store.verified(facts.digest)
    model_import.add(store, source)
    store.verified(facts.digest)
    path.unlink()
    with pytest.raises(SealBroken, match="is gone"):
        store.verified(facts.digest)


def test_a_changed_record_or_paper_is_found(store: ModelStore, tmp_path: Path) -> None:
    facts = model_import.add(store, write(tmp_path / "m", FILES))
    assert set(store.papers(facts.digest)) == {"manifest", "bom.cdx.json"}
    record = store.folder / facts.digest / "model.json"
    value = json.loads(record.read_text())
    value["files"][0]["sha256"] = "0" * 64
    record.write_text(json.dumps(value))
    with pytest.raises(SealBroken, match=r"record .* was changed"):
        store.verified(facts.digest)
    (store.folder / facts.digest / "bom.cdx.json").write_text("{}")
    with pytest.raises(SealBroken, match="has changed"):
        store.papers(facts.digest)
    with pytest.raises(NotFound):
        store.verified("0" * 64)


def test_a_large_model_is_hashed_again_only_when_touched(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = model_import.add(store, write(tmp_path / "m", FILES))
    monkeypatch.setattr("daulat.adapters.models._ALWAYS_VERIFIED", 1)
    store.verified(facts.digest)
    monkeypatch.setattr(store, "check", lambda *_: pytest.fail("it was not touched"))
    store.verified(facts.digest)


def member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def linked_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("LICENSE")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
        for name, data in FILES.items():
            if name != "LICENSE":
                archive.writestr(name, data)
    return out.getvalue()


def huge_header() -> bytes:
    """A tar whose extended header says that it has eight gigabytes, in a gz of no size."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 * 2**30
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1_000_000))


BAD: dict[str, tuple[bytes, str]] = {
    "symlink": (tar(FILES, member("more.json", tarfile.SYMTYPE, "/etc/passwd")), "is a link"),
    "hardlink": (tar(FILES, member("more.json", tarfile.LNKTYPE, "config.json")), "is a link"),
    "device": (tar(FILES, member("more.json", tarfile.CHRTYPE)), "a device"),
    "fifo": (tar(FILES, member("more.json", tarfile.FIFOTYPE)), "no ordinary file"),
    "parent": (tar({**FILES, "../../escaped.json": b"{}"}), "named from inside"),
    "absolute": (tar({**FILES, "/tmp/escaped.json": b"{}"}), "named from inside"),
    "twice": (tar(FILES, member("config.json", tarfile.REGTYPE)), "stands there twice"),
    "pickle": (tar({**FILES, "pytorch_model.bin": b"\x80\x04"}), "pickle"),
    "code": (tar({**FILES, "modeling_x.py": b"import os"}), "--without-code"),
    "cut": (tar(FILES)[:1500], "damaged|cut short|complete|no weights|no config"),
    "cut gz": (gzip.compress(tar(FILES))[:-30], "damaged"),
    "huge header": (huge_header(), "at most 1048576"),
    "zip link": (linked_zip(), "is a link"),
    "zip parent": (zipped({**FILES, "../escaped.json": b"{}"}), "named from inside"),
    "zip cut": (zipped(FILES)[:-40], "damaged zip"),
    "zip bytes": (zipped(FILES).replace(b"config.json", b"config.jsom", 1), "damaged|no config|differ"),
    "nothing": (b"plain text", "is no GGUF file, wheel"),
    "zst": (b"\x28\xb5\x2f\xfd" + bytes(30), "damaged"),
}


@pytest.mark.parametrize("case", BAD)
def test_archives_are_refused_for_what_they_hold_and_nothing_is_left(
    store: ModelStore, tmp_path: Path, case: str
) -> None:
    data, said = BAD[case]
    with pytest.raises(BadModel, match=said):
        model_import.add(store, saved(tmp_path / "m.archive", data))
    assert store.all() == []
    assert not list(tmp_path.rglob("escaped*"))
    assert not Path("/tmp/escaped.json").exists()


def test_a_member_that_is_longer_or_shorter_than_it_says_is_refused(store: ModelStore, tmp_path: Path) -> None:
    data = bytearray(zipped(FILES))
    at = data.rindex(b"PK\x01\x02")  # the last member's entry in the directory
    size = int.from_bytes(data[at + 24 : at + 28], "little")
    data[at + 24 : at + 28] = (size + 5).to_bytes(4, "little")
    with pytest.raises(BadModel, match=r"ends at byte|damaged"):
        model_import.add(store, saved(tmp_path / "m.zip", bytes(data)))


class Torn(Exception):
    """Somebody pulls the plug."""


def torn_after(count: int) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, _total: int) -> None:
        if what == "storing the model" and done >= count:
            raise Torn

    return progress


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_copy, "PIECE", 1024)
    monkeypatch.setattr(model_copy, "_STATE_EVERY", 4096)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is opened from now on, and from which byte."""
    seen: list[tuple[str, int]] = []
    before = model_sources._at

    def opened(name: str, open_: Any, at: int, stamp: str) -> Any:
        seen.append((name, at))
        return before(name, open_, at, stamp)

    monkeypatch.setattr(model_sources, "_at", opened)
    return seen


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return saved(tmp_path / "large.gguf", gguf_files.make(gguf_files.KEYS, {"w": (32, 400)}))


@pytest.mark.usefixtures("small_pieces")
def test_an_interrupted_import_goes_on_where_it_was(
    store: ModelStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Torn):
        model_import.add(store, large, None, torn_after(20_000))
    assert store.all() == []
    assert Staging(store.folder, large).durable_bytes() >= 20_000
    seen = reads(monkeypatch)
    facts = model_import.add(store, large)
    (_, at) = seen[-1]
    assert at >= 20_000
    assert facts.digest == hashlib.sha256(large.read_bytes()).hexdigest()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("spoil", ["copy", "state", "source", "gone"])
def test_what_is_left_of_an_earlier_try_is_checked_again(
    store: ModelStore, large: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    with pytest.raises(Torn):
        model_import.add(store, large, None, torn_after(20_000))
    (part,) = Staging(store.folder, large).folder.glob("*.part")
    (state,) = Staging(store.folder, large).folder.glob("*.state")
    if spoil == "copy":
        part.write_bytes(b"\x00" * part.stat().st_size)  # as a lost machine leaves pages that were not written
    elif spoil == "state":
        state.write_text("{")
    elif spoil == "source":
        large.write_bytes(gguf_files.make({**gguf_files.KEYS, "general.name": "Another"}, {"w": (32, 400)}))
    else:
        part.unlink()
    seen = reads(monkeypatch)
    facts = model_import.add(store, large)
    assert [at for _, at in seen] == [0]
    assert facts.digest == hashlib.sha256(large.read_bytes()).hexdigest()
    store.verified(facts.digest)


@pytest.mark.usefixtures("small_pieces")
def test_a_killed_import_has_its_last_state(store: ModelStore, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process writes no last state: what was noted on the way is what counts."""
    with monkeypatch.context() as patched:
        before, calls = model_copy._write_state, [0]

        def write_state(*given: Any) -> None:
            calls[0] += 1
            if calls[0] <= 2:
                before(*given)

        patched.setattr(model_copy, "_write_state", write_state)
        with pytest.raises(Torn):
            model_import.add(store, large, None, torn_after(20_000))
    seen = reads(monkeypatch)
    facts = model_import.add(store, large)
    assert [at for _, at in seen] == [8192]
    assert facts.digest == hashlib.sha256(large.read_bytes()).hexdigest()


def test_two_imports_of_one_source_do_not_meet(store: ModelStore, large: Path) -> None:
    with Staging(store.folder, large).held(), pytest.raises(Conflict, match="another command"):
        model_import.add(store, large)


def test_a_full_disk_is_said_before_anything_is_copied(
    store: ModelStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daulat.adapters.models.SPARE", 2**60)
    with pytest.raises(ConfigError, match="MiB free"):
        model_import.add(store, large)


def test_progress_counts_every_byte_once(store: ModelStore, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    model_import.add(store, write(tmp_path / "m", FILES), None, lambda *told: seen.append(told))
    total = sum(map(len, FILES.values()))
    assert seen[-1] == ("storing the model", total, total)
    assert sorted(done for _, done, _ in seen) == [done for _, done, _ in seen]


def test_without_code_is_a_derived_model_that_says_what_was_taken_out(store: ModelStore, tmp_path: Path) -> None:
    config = json.dumps({**model_folders.CONFIG, "auto_map": {"AutoModel": "modeling_deepseek.X"}}).encode()
    source = write(tmp_path / "V3", {**contents(**{"config.json": config}), "modeling_deepseek.py": b"import os"})
    with pytest.raises(BadModel, match=r"modeling_deepseek.py: is code.*--without-code"):
        model_import.add(store, source)
    facts = model_import.add(store, source, Wishes(without_code=True))
    assert facts.derived_from is not None
    assert facts.derived_from["recipe"] == (
        "keys that ask for code taken out of config.json; left out: modeling_deepseek.py"
    )
    folder = store.verified(facts.digest)
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    assert not (folder / "modeling_deepseek.py").exists()
    plain = model_import.add(store, write(tmp_path / "plain", FILES), Wishes(without_code=True))
    assert plain.derived_from is None, "there was nothing to take out"


def test_a_template_of_the_operators_takes_the_place_of_the_models_own(store: ModelStore, tmp_path: Path) -> None:
    template = saved(tmp_path / "tools.jinja", b"{{ tools }}{{ messages }}")
    source = write(tmp_path / "m", FILES)
    facts = model_import.add(store, source, Wishes(chat_template=template))
    named = {item.name: item.text for item in facts.templates}
    assert named["default"] == "{{ tools }}{{ messages }}"
    assert (store.verified(facts.digest) / "chat_template.jinja").read_bytes() == template.read_bytes()
    digest = hashlib.sha256(template.read_bytes()).hexdigest()
    assert facts.derived_from == {"digest": model_import.add(store, source).digest, "recipe": f"chat template {digest}"}
    with pytest.raises(ConfigError, match="key of its header"):
        model_import.add(store, saved(tmp_path / "m.gguf", GGUF), Wishes(chat_template=template))
    evil = saved(tmp_path / "evil.jinja", b"{{ self }}")
    with pytest.raises(BadModel, match="chat template 'default'"):
        model_import.add(store, source, Wishes(chat_template=evil))


def test_a_template_that_is_refused_keeps_its_model_out(store: ModelStore, tmp_path: Path) -> None:
    bad = {**gguf_files.KEYS, "tokenizer.chat_template": "{{ self.__init__.__globals__ }}"}
    with pytest.raises(BadModel, match="chat template 'default'"):
        model_import.add(store, saved(tmp_path / "m.gguf", gguf_files.make(bad)))
    jinja = contents(**{"chat_template.jinja": b"{{ messages.append(1) }}"})
    with pytest.raises(BadModel, match="refused by its sandbox"):
        model_import.add(store, write(tmp_path / "m", jinja))
    assert store.all() == []


def test_what_was_stored_before_there_were_records_of_files_is_still_a_model(store: ModelStore) -> None:
    digest = hashlib.sha256(GGUF).hexdigest()
    record = {"name": "old", "origin": "here", "licence": "mit", "derived_from": None}
    write(store.folder / digest, {"model.gguf": GGUF, "model.json": json.dumps(record).encode()})
    (facts,) = store.all()
    assert (facts.name, facts.admission()["files"][0]["sha256"]) == ("old", digest)
    assert store.verified(digest).name == "model.gguf"
    assert store.papers(digest) == {}


@pytest.mark.parametrize(("kind", "data"), [("tar", tar(in_folder(FILES))), ("zip", zipped(FILES))], ids=["tar", "zip"])
def test_no_broken_archive_gets_anything_but_our_error(tmp_path: Path, kind: str, data: bytes) -> None:

    chance = random.Random(7)  # noqa: S311  the same spoiled bytes each time
    path = tmp_path / f"m.{kind}"
    for number in range(150):
        spoiled = bytearray(data[: chance.randrange(1, len(data))] if number % 3 == 0 else data)
        for _ in range(chance.randrange(1, 8)):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        path.write_bytes(spoiled)
        try:
            source = model_sources.open_source(path)
            for item in source.items():
                stream = item.open(0)
                while stream.read(65_536):
                    pass
        except BadModel:
            pass
