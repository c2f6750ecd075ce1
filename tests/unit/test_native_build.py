"""bpf/build.py compiles what is stale, and nothing else, and shows what a compiler says."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def native() -> ModuleType:
    spec = importlib.util.spec_from_file_location("native_build", CHECKOUT / "bpf" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf" / "answer.h").write_text("#define ANSWER 0\n")
    (tmp_path / "bpf" / "tiny.bpf.c").write_text(
        '#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n#include "answer.h"\n'
        'SEC("tc") int tiny(struct __sk_buff *skb) { return ANSWER; }\nchar LICENSE[] SEC("license") = "GPL";\n'
    )
    (tmp_path / "provisioner" / "images").mkdir(parents=True)
    (tmp_path / "provisioner" / "images" / "pause.c").write_text("int main(void) { return 0; }\n")
    return tmp_path


def times(tree: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in tree.glob("*/objects/*")}


def test_what_has_sources_is_made_and_the_rest_is_passed_over_in_words(
    native: ModuleType, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = native.build(tree)
    assert sorted(map(str, made)) == ["agent/objects/tiny.bpf.o", "provisioner/objects/pause"]
    assert "agent/cni/plugin/anetd-cni.c is not there yet: passed over" in capsys.readouterr().err
    assert subprocess.run([tree / "provisioner" / "objects" / "pause"], check=False).returncode == 0
    sections = subprocess.run(
        ["llvm-objdump", "-h", tree / "agent" / "objects" / "tiny.bpf.o"], capture_output=True, text=True, check=True
    ).stdout
    assert ".BTF" in sections
    assert ".debug_info" not in sections


def test_only_what_is_stale_is_compiled_again(native: ModuleType, tree: Path) -> None:
    native.build(tree)
    before = times(tree)
    (tree / "bpf" / "tiny.bpf.c").touch()
    native.build(tree)
    assert times(tree) == before
    (tree / "bpf" / "answer.h").write_text("#define ANSWER 1\n")
    native.build(tree)
    after = times(tree)
    assert after["tiny.bpf.o"] > before["tiny.bpf.o"]
    assert after["pause"] == before["pause"]
    (tree / "provisioner" / "objects" / "pause").unlink()
    native.build(tree)
    assert (tree / "provisioner" / "objects" / "pause").exists()


def test_every_failure_is_told_with_the_compiler_s_words_and_the_old_object_stays(native: ModuleType, tree: Path) -> None:
    native.build(tree)
    before = times(tree)
    (tree / "bpf" / "tiny.bpf.c").write_text("int broken(void) { return nothing; }\n")
    (tree / "provisioner" / "images" / "pause.c").write_text("int main(void) { int unused; return 0; }\n")
    with pytest.raises(native.BuildError, match=r"(?s)nothing.*unused"):
        native.build(tree)
    assert times(tree) == before
    assert not list(tree.glob("*/objects/.compiling-*"))


def test_a_missing_compiler_names_its_package(native: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native._tool_version.cache_clear()
    monkeypatch.setenv("PATH", str(tree))
    monkeypatch.setattr(native, "_multiarch_include", lambda: ())
    with pytest.raises(native.BuildError, match="apt-get install"):
        native.build(tree)
    native._tool_version.cache_clear()
