"""Which programs are used, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile

import pytest

from provisioner import binaries, cache, errors
from provisioner.binaries import build, download, pins, release, toolchain


@pytest.fixture
def complete(tmp_path):
    directory = tmp_path / "given"
    directory.mkdir()
    for program in pins.REQUIRED:
        (directory / program).write_text("#!/bin/sh\n")
        (directory / program).chmod(0o755)
    return directory


@pytest.fixture
def never_built(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a build was started")

    monkeypatch.setattr(build, "build_part", refuse)
    monkeypatch.setattr(toolchain, "ensure", refuse)


def test_the_pins_name_every_program_and_version():
    found = pins.load("1.34.4")
    programs = {program for part in found.parts for program in part.packages}
    assert programs == {*pins.REQUIRED, *pins.OPTIONAL}
    assert {part.name: part.version for part in found.parts} == {"kubernetes": "v1.34.4", "etcd": "v3.6.13", "coredns": "v1.12.4"}
    assert found.go >= (1, 24, 0)
    assert found.key.startswith("v1.34.4-linux-")


def test_a_version_without_pins_is_refused_with_the_known_ones():
    with pytest.raises(errors.SpecInvalid) as caught:
        pins.load("1.2.3")
    assert caught.value.field == "kubernetesVersion"
    assert "v1.34.4" in caught.value.remedy


def test_a_given_directory_wins_and_is_taken_as_it_is(complete, deadline, lines, never_built):
    found = binaries.ensure("1.34.4", complete, deadline, lines.append)
    assert (found.directory, found.source, found.version) == (complete, "given directory", "v1.34.4")
    assert not found.has("agnhost")


@pytest.mark.parametrize("break_it", [lambda path: path.unlink(), lambda path: path.chmod(0o644)], ids=["missing", "not executable"])
def test_an_incomplete_given_directory_is_refused_by_program(complete, deadline, lines, break_it):
    break_it(complete / "etcd")
    with pytest.raises(errors.MachineUnfit) as caught:
        binaries.ensure("1.34.4", complete, deadline, lines.append)
    assert "etcd" in caught.value.message
    assert "kubelet" not in caught.value.message
    assert caught.value.field == "--kubernetes-bin-dir"


def fill_release(part, architecture, target, deadline, progress):
    for program in part.required:
        (target / program).write_bytes(program.encode())


@pytest.fixture
def no_extras(monkeypatch):
    monkeypatch.setattr(binaries, "_try_extras", lambda *args: None)


def test_a_release_is_fetched_once_and_then_comes_from_the_cache(monkeypatch, deadline, lines, never_built, no_extras):
    monkeypatch.setattr(release, "fetch_part", fill_release)
    first = binaries.ensure("1.34.4", None, deadline, lines.append)
    assert "official release" in first.source
    monkeypatch.setattr(release, "fetch_part", lambda *args: pytest.fail("fetched again"))
    second = binaries.ensure("1.34.4", None, deadline, lines.append)
    assert (second.source, second.directory) == ("cache", first.directory)
    assert all(second.has(program) for program in pins.REQUIRED)


def test_a_corrupted_cache_is_made_again(monkeypatch, deadline, lines, never_built, no_extras):
    monkeypatch.setattr(release, "fetch_part", fill_release)
    first = binaries.ensure("1.34.4", None, deadline, lines.append)
    first.path("kubelet").unlink()
    first.path("kubelet").write_bytes(b"garbage")
    second = binaries.ensure("1.34.4", None, deadline, lines.append)
    assert second.path("kubelet").read_bytes() == b"kubelet"


def test_an_interrupted_fetch_is_never_used_and_keeps_the_parts_before_it(monkeypatch, deadline, lines, never_built, no_extras):
    def interrupt(part, architecture, target, deadline, progress):
        if part.name == "etcd":
            (target / "etcd").write_bytes(b"half")
            raise KeyboardInterrupt
        fill_release(part, architecture, target, deadline, progress)

    monkeypatch.setattr(release, "fetch_part", interrupt)
    with pytest.raises(KeyboardInterrupt):
        binaries.ensure("1.34.4", None, deadline, lines.append)
    assert not binaries.cached_directory(pins.load("1.34.4")).exists()
    fetched = []

    def note(part, *rest):
        fetched.append(part.name)
        fill_release(part, *rest)

    monkeypatch.setattr(release, "fetch_part", note)
    found = binaries.ensure("1.34.4", None, deadline, lines.append)
    assert fetched == ["etcd", "coredns"]
    assert found.path("etcd").read_bytes() == b"etcd"


def test_without_a_release_the_programs_are_built_and_that_is_said(monkeypatch, deadline, lines):
    def unreachable(*args):
        raise download.UnreachableError("dl.k8s.io cannot be resolved")

    def built(part, go, target, log, deadline, progress, only=()):
        for program in part.packages:
            (target / program).write_bytes(b"built")

    monkeypatch.setattr(release, "fetch_part", unreachable)
    monkeypatch.setattr(build, "build_part", built)
    monkeypatch.setattr(toolchain, "ensure", lambda *args: toolchain.Go("go", "go1.99"))
    found = binaries.ensure("1.34.4", None, deadline, lines.append)
    assert "built from Go modules with go1.99" in found.source
    assert found.has("agnhost")
    assert any("cannot be resolved" in line for line in lines)


def test_a_failed_build_of_what_no_release_has_is_said_and_not_fatal(monkeypatch, deadline, lines):
    def no_go(*args):
        raise errors.MachineUnfit("there is no Go")

    monkeypatch.setattr(release, "fetch_part", fill_release)
    monkeypatch.setattr(toolchain, "ensure", no_go)
    found = binaries.ensure("1.34.4", None, deadline, lines.append)
    assert not found.has("agnhost")
    assert any("without agnhost" in line for line in lines)


@pytest.mark.parametrize(("name", "programs"), [("e2e", {"ginkgo", "e2e.test", "regression-issue-74839"}), ("kube-proxy", {"kube-proxy"})])
def test_a_part_on_demand_is_pinned_to_the_same_version_and_is_of_no_set(name, programs):
    (part,) = pins.load("1.34.4", (name,)).parts
    assert (set(part.packages), part.version) == (programs, "v1.34.4")
    assert not programs & {*pins.REQUIRED, *pins.OPTIONAL}


def test_a_part_on_demand_is_fetched_alone_once(monkeypatch, deadline, lines, never_built):
    monkeypatch.setattr(release, "fetch_part", fill_release)
    found = binaries.ensure_part("kube-proxy", "1.34.4", deadline, lines.append)
    assert (found.source, found.path("kube-proxy").read_bytes()) == ("official release", b"kube-proxy")
    monkeypatch.setattr(release, "fetch_part", lambda *args: pytest.fail("fetched again"))
    assert binaries.ensure_part("kube-proxy", "1.34.4", deadline, lines.append).source == "cache"
    assert not binaries.cached_directory(pins.load("1.34.4")).exists()


def test_a_package_of_specs_is_compiled_as_a_test_and_a_program_is_built(tmp_path, monkeypatch, deadline, lines):
    commands = {}
    monkeypatch.setattr(build.process, "run_logged", lambda argv, **_: commands.update({argv[-1]: argv[1:3]}))
    monkeypatch.setattr(build, "_environment", lambda go: {})
    monkeypatch.setattr(cache, "require_space", lambda *args: None)
    (part,) = pins.load("1.34.4", ("e2e",)).parts
    build.build_part(part, toolchain.Go(tmp_path / "go", "go1.99"), tmp_path, tmp_path / "log", deadline, lines.append)
    assert commands["github.com/onsi/ginkgo/v2/ginkgo"] == ["build", "-v"]
    assert commands["k8s.io/kubernetes/test/e2e"] == ["test", "-c"]


@pytest.fixture
def network(monkeypatch):
    """URL -> content, in place of the network."""
    contents: dict[str, bytes] = {}

    class Response(io.BytesIO):
        headers: dict[str, str] = {}  # noqa: RUF012

    def answer(url, timeout):
        if url not in contents:
            raise download.UnreachableError(f"{url} answered 404")
        return Response(contents[url])

    monkeypatch.setattr(download, "_open", answer)
    return contents


def test_a_download_with_another_checksum_than_published_is_an_error_and_not_kept(network, tmp_path, deadline, lines):
    network["https://x.test/file"] = b"tampered"
    with pytest.raises(errors.UpstreamFailure) as caught:
        download.fetch_file("https://x.test/file", tmp_path / "file", "file", deadline, lines.append, sha256="0" * 64)
    assert "checksum" in caught.value.message
    assert not (tmp_path / "file").exists()


def test_a_checksum_mismatch_does_not_fall_back_to_a_build(network, deadline, lines, never_built):
    base = f"https://dl.k8s.io/release/v1.34.4/bin/linux/{pins.architecture()}"
    network[f"{base}/kube-apiserver.sha256"] = b"0" * 64
    network[f"{base}/kube-apiserver"] = b"tampered"
    with pytest.raises(errors.UpstreamFailure):
        binaries.ensure("1.34.4", None, deadline, lines.append)


def archive_of(**members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"etcd-v3/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def test_an_archive_of_a_release_is_checked_and_only_its_program_taken(network, tmp_path, deadline, lines):
    part = next(part for part in pins.load("1.34.4").parts if part.name == "etcd")
    base = "https://github.com/etcd-io/etcd/releases/download/v3.6.13"
    content = archive_of(etcdctl=b"other", etcd=b"program")
    name = "etcd-v3.6.13-linux-amd64.tar.gz"
    network[f"{base}/{name}"] = content
    network[f"{base}/SHA256SUMS"] = f"{'1' * 64}  etcd-v3.6.13-linux-arm64.tar.gz\n{hashlib.sha256(content).hexdigest()}  {name}\n".encode()
    release.fetch_part(part, "amd64", tmp_path, deadline, lines.append)
    assert (tmp_path / "etcd").read_bytes() == b"program"
    assert (tmp_path / "etcd").stat().st_mode & 0o111
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["etcd"]


def test_the_archive_of_tests_gives_every_program_of_its_part(network, tmp_path, deadline, lines):
    (part,) = pins.load("1.34.4", ("e2e",)).parts
    url = "https://dl.k8s.io/release/v1.34.4/kubernetes-test-linux-amd64.tar.gz"
    network[url] = archive_of(**{"test/bin/ginkgo": b"runner", "test/bin/e2e.test": b"specs", "test/bin/e2e_node.test": b"other"})
    network[f"{url}.sha256"] = hashlib.sha256(network[url]).hexdigest().encode()
    release.fetch_part(part, "amd64", tmp_path, deadline, lines.append)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"ginkgo": b"runner", "e2e.test": b"specs"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 64, "a" * 64),
        (f"{'b' * 64} *dir/file\n{'c' * 64}  other", "b" * 64),
        (f"{'b' * 64}  other", ""),
        ("<html>not found</html>", ""),
        ("", ""),
    ],
)
def test_checksum_files_are_read_in_either_form(text, expected):
    assert download.find_checksum(text, "file") == expected


def test_a_name_that_does_not_resolve_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(download.urllib.request, "getproxies", dict)
    with pytest.raises(download.UnreachableError, match="cannot be resolved"):
        download.fetch_text("https://nothing.invalid/x")


def toolchain_zip(path, prefix, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {prefix}{name}\n" for name, content in sorted(files.items()))
    return "h1:" + base64.b64encode(hashlib.sha256(lines.encode()).digest()).decode()


def test_a_toolchain_with_its_pinned_hash_is_unpacked_with_its_programs_executable(tmp_path):
    files = {"bin/go": b"\x7fELFprogram", "src/a.go": b"package a", "make.bash": b"#!/bin/bash\n"}
    expected = toolchain_zip(tmp_path / "zip", "m@v/", files)
    toolchain.verify_and_unpack(tmp_path / "zip", "m@v/", expected, tmp_path / "go")
    assert (tmp_path / "go/bin/go").stat().st_mode & 0o111
    assert not (tmp_path / "go/src/a.go").stat().st_mode & 0o111


@pytest.mark.parametrize("name", ["bin/go", "../escape"])
def test_a_toolchain_that_is_not_the_pinned_one_is_refused(tmp_path, name):
    toolchain_zip(tmp_path / "zip", "m@v/", {name: b"other"})
    with pytest.raises(errors.UpstreamFailure):
        toolchain.verify_and_unpack(tmp_path / "zip", "m@v/", "h1:pinned", tmp_path / "go")
    assert not (tmp_path / "escape").exists()


def test_no_usable_go_says_what_was_found_and_what_to_do(monkeypatch, deadline, lines):
    monkeypatch.setattr(toolchain, "find", lambda at_least: (None, ["/usr/bin/go (go1.19.8)"]))

    def unreachable(*args, **kwargs):
        raise download.UnreachableError("the proxy cannot be resolved")

    monkeypatch.setattr(toolchain, "fetch_file", unreachable)
    with pytest.raises(errors.MachineUnfit) as caught:
        toolchain.ensure((1, 25, 0), deadline, lines.append)
    assert "1.25.0" in caught.value.message
    assert "go1.19.8" in caught.value.message
    assert "--kubernetes-bin-dir" in caught.value.remedy
    assert not any((cache.root() / "go").iterdir())


@pytest.mark.parametrize(
    ("configured", "expected"),
    [("", toolchain._DEFAULT_PROXY), ("https://a.test/,direct", "https://a.test"), ("direct|http://b.test", "http://b.test")],
)
def test_the_first_proxy_of_goproxy_is_asked(monkeypatch, configured, expected):
    monkeypatch.setenv("GOPROXY", configured)
    assert toolchain._proxy() == expected


def test_goproxy_off_is_respected(monkeypatch):
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(download.UnreachableError):
        toolchain._proxy()


@pytest.mark.parametrize(
    ("text", "expected"), [("go1.26.8", (1, 26, 8)), ("1.25", (1, 25, 0)), ("go1.26rc1", (1, 26, 0)), ("devel", (0, 0, 0))]
)
def test_go_versions_compare_as_numbers(text, expected):
    assert pins.parse_go_version(text) == expected


def test_a_failing_build_shows_the_log_and_leaves_no_part(monkeypatch, deadline, lines, tmp_path):
    broken = tmp_path / "go"
    broken.write_text("#!/bin/sh\necho 'no such module' >&2\nexit 3\n")
    broken.chmod(0o755)

    def unreachable(*args):
        raise download.UnreachableError("not here")

    monkeypatch.setattr(release, "fetch_part", unreachable)
    monkeypatch.setattr(toolchain, "ensure", lambda *args: toolchain.Go(broken, "go1.99"))
    monkeypatch.setattr(cache, "require_space", lambda *args: None)
    with pytest.raises(errors.UpstreamFailure) as caught:
        binaries.ensure("1.34.4", None, deadline, lines.append)
    assert "no such module" in caught.value.message
    assert list((cache.root() / "binaries" / "parts").iterdir()) == []
