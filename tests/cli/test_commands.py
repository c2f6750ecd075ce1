"""Each command: what it prints where, what it leaves, and how it ends."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
import yaml

from provisioner import errors
from provisioner.cli import backend, main
from provisioner.providers.base import ClusterState

from .fake import KEY, FakeProvider
from .result import Run

CREATE = ("create-cluster", "demo", "--dataplane-v2")


def document(tmp_path: Path, **spec: object) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(
        yaml.safe_dump({"apiVersion": "provisioner.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "filed"}, "spec": spec})
    )
    return str(path)


# --- create-cluster ---


def test_create_makes_the_cluster_and_the_kubeconfig_and_prints_the_cluster(run: Run, provider: FakeProvider, home: Path) -> None:
    result = run(*CREATE)
    assert result.code == 0
    assert provider.clusters["demo"].state is ClusterState.RUNNING
    assert [line.split()[:3] for line in result.out.splitlines()] == [["NAME", "PROVIDER", "STATE"], ["demo", "local", "RUNNING"]]
    assert "[2/2] Start it: done" in result.err
    assert "provisioner-demo" in (home / ".kube" / "config").read_text()


def test_the_same_create_again_finds_everything_there(run: Run) -> None:
    run(*CREATE)
    again = run(*CREATE, "--output", "json")
    assert again.code == 0
    assert again.json["state"] == "RUNNING"
    assert again.err.count("already there") == 2


def test_create_in_json_prints_json_alone_on_stdout(run: Run) -> None:
    data = run(*CREATE, "--output", "json").json
    assert (data["name"], data["state"], data["numNodes"], data["spec"]["spec"]["podCIDR"]) == ("demo", "RUNNING", 2, "10.244.0.0/16")
    assert data["details"]["members"][0]["name"] == "demo-0"


def test_create_without_the_dataplane_is_refused_with_the_reason(run: Run, provider: FakeProvider) -> None:
    result = run("create-cluster", "demo", "--output", "json")
    assert result.code == 4
    assert result.out == ""
    assert result.error["id"] == "refused-by-gate"
    assert result.error["exitCode"] == 4
    assert "no other dataplane" in result.error["message"]
    assert "--dataplane-v2" in result.error["remedy"]
    assert provider.clusters == {}


@pytest.mark.parametrize("extra", [("--dataplane-v2",), ("--enable-dataplane-v2",)])
def test_gcloud_s_word_for_the_flag_is_taken_too(run: Run, extra: tuple[str, ...]) -> None:
    assert run("create-cluster", "demo", *extra).code == 0


def test_a_document_may_ask_for_the_dataplane_itself(run: Run, tmp_path: Path) -> None:
    config = document(tmp_path, dataplane={"version": "v2"})
    assert run("create-cluster", "--config", config).code == 0
    assert run("create-cluster", "--config", document(tmp_path, dataplane={"routingMode": "vxlan"})).code == 4
    assert run("create-cluster", "--config", document(tmp_path, dataplane={"version": "v1"})).code == 4


def test_flags_and_file_make_one_spec_and_the_flag_wins(run: Run, provider: FakeProvider, tmp_path: Path) -> None:
    config = document(tmp_path, numNodes=3, dataplane={"mtu": 1400})
    flags = ("--num-nodes", "4", "--routing-mode", "vxlan", "--no-masquerade", "--label", "team=net", "--non-masquerade-cidr", "10.0.0.0/8")
    result = run("create-cluster", "named", "--dataplane-v2", "--config", config, *flags)
    assert result.code == 0, result.err
    spec = provider.clusters["named"].spec
    assert (spec.num_nodes, spec.dataplane.mtu, spec.dataplane.routing_mode.value) == (4, 1400, "vxlan")
    assert not spec.dataplane.masquerade
    assert [str(cidr) for cidr in spec.dataplane.non_masquerade_cidrs] == ["10.0.0.0/8"]
    assert spec.labels == {"team": "net"}


def test_masquerade_may_be_switched_on_over_a_file(run: Run, provider: FakeProvider, tmp_path: Path) -> None:
    config = document(tmp_path, dataplane={"masquerade": False})
    run("create-cluster", "a", "--dataplane-v2", "--config", config)
    run("create-cluster", "b", "--dataplane-v2", "--config", config, "--masquerade")
    assert [provider.clusters[name].spec.dataplane.masquerade for name in "ab"] == [False, True]


def test_a_dry_run_prints_the_plan_changes_nothing_and_ends_with_2(run: Run, provider: FakeProvider, home: Path, tmp_path: Path) -> None:
    result = run(*CREATE, "--dry-run", "--output", "json")
    assert result.code == 2
    assert [(step["id"], step["status"]) for step in result.json["steps"]] == [("make-state", "todo"), ("start-it", "unknown")]
    assert provider.clusters == {}
    assert not (tmp_path / "state").exists()
    assert list(home.iterdir()) == []
    assert "a detail" in run(*CREATE, "--dry-run").out


def test_a_dry_run_of_what_is_there_ends_with_0(run: Run) -> None:
    run(*CREATE)
    assert run(*CREATE, "--dry-run").code == 0


def test_another_spec_for_a_name_that_is_taken_conflicts(run: Run) -> None:
    run(*CREATE)
    result = run(*CREATE, "--num-nodes", "3", "--output", "json")
    assert result.code == 5
    assert result.error["field"] == "spec.numNodes"


def test_no_kubeconfig_writes_none_and_kubeconfig_writes_there(run: Run, home: Path, tmp_path: Path) -> None:
    run(*CREATE, "--no-kubeconfig")
    assert list(home.iterdir()) == []
    own = tmp_path / "own"
    run(*CREATE, "--kubeconfig", str(own))
    assert yaml.safe_load(own.read_text())["current-context"] == "provisioner-demo"
    assert list(home.iterdir()) == []
    assert run(*CREATE, "--no-kubeconfig", "--kubeconfig", str(own)).code == 3


@pytest.mark.parametrize(
    ("fault", "code", "identity"),
    [
        (errors.UpstreamFailure("etcd did not start", remedy="Look."), 9, "upstream-failure"),
        (errors.Timeout("too late"), 8, "timeout"),
        (errors.PermissionMissing("not yours"), 7, "permission-missing"),
        (ZeroDivisionError("surprise"), 1, "internal"),
        (errors.Interrupted("stopped"), 130, "interrupted"),
    ],
)
def test_a_failed_create_ends_with_the_error_s_code_and_keeps_what_was_made(
    run: Run, provider: FakeProvider, fault: BaseException, code: int, identity: str
) -> None:
    def fail() -> None:
        raise fault

    provider.fault = fail
    result = run(*CREATE, "--output", "json")
    assert (result.code, result.error["id"], result.error["exitCode"]) == (code, identity, code)
    assert result.out == ""
    assert provider.clusters["demo"].state is ClusterState.INCOMPLETE
    provider.fault = lambda: None
    assert run(*CREATE, "--output", "json").json["state"] == "RUNNING"


def test_on_failure_delete_removes_what_a_failed_create_made(run: Run, provider: FakeProvider) -> None:
    def fail() -> None:
        raise errors.UpstreamFailure("no")

    provider.fault = fail
    assert run(*CREATE, "--on-failure", "delete").code == 9
    assert provider.clusters == {}
    assert not provider.journal("demo").parent.exists()


def test_every_step_is_in_the_journal(run: Run, provider: FakeProvider) -> None:
    run(*CREATE)
    entries = [json.loads(line) for line in provider.journal("demo").read_text().splitlines()]
    assert [(e["step"], e["event"]) for e in entries] == [
        ("make-state", "begun"),
        ("make-state", "done"),
        ("start-it", "begun"),
        ("start-it", "done"),
    ]


def test_the_command_alone_takes_its_arguments_directly(provider: FakeProvider, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.create_cluster_alone(["demo", "--dataplane-v2", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "demo"


# --- delete-cluster, stop-cluster ---


def test_delete_removes_the_cluster_and_every_kubeconfig_entry(run: Run, provider: FakeProvider, home: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    run(*CREATE, "--kubeconfig", str(own))
    run("get-credentials", "demo")
    run("create-cluster", "other", "--dataplane-v2")
    result = run("delete-cluster", "demo", "--quiet", "--output", "json")
    assert result.code == 0
    assert result.json == {"name": "demo", "deleted": True}
    assert set(provider.clusters) == {"other"}
    assert not own.exists()
    assert "provisioner-demo" not in (home / ".kube" / "config").read_text()
    assert "provisioner-other" in (home / ".kube" / "config").read_text()
    assert not provider.journal("demo").parent.exists()


def test_a_kubeconfig_that_cannot_be_written_does_not_keep_the_cluster(
    run: Run, provider: FakeProvider, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    run(*CREATE, "--kubeconfig", str(own))
    own.write_text("[broken")
    result = run("delete-cluster", "demo", "--quiet")
    assert result.code == 5
    assert str(own) in result.err
    assert provider.clusters == {}
    (home / ".kube").mkdir()
    (home / ".kube" / "config").write_text("[broken, and not by us")
    run(*CREATE, "--no-kubeconfig")
    assert run("delete-cluster", "demo", "--quiet").code == 0
    assert provider.clusters == {}


def test_delete_of_what_is_not_there_ends_with_6(run: Run) -> None:
    assert run("delete-cluster", "nothing", "--quiet").code == 6


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, False), ("n\n", 130, True), ("\n", 130, True), ("", 130, True)])
def test_delete_asks_on_a_terminal(
    run: Run, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: bool
) -> None:
    import io
    import sys

    run(*CREATE)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    result = run("delete-cluster", "demo")
    assert result.code == code
    assert ("demo" in provider.clusters) is left
    if answer == "y\n":
        monkeypatch.setattr(sys, "stdin", Terminal(""))
        run(*CREATE)
        assert run("delete-cluster", "demo", "--quiet").code == 0


def test_a_dry_run_of_delete_keeps_the_cluster_and_its_entry(run: Run, provider: FakeProvider, home: Path) -> None:
    run(*CREATE)
    assert run("delete-cluster", "demo", "--dry-run").code == 2
    assert "demo" in provider.clusters
    assert "provisioner-demo" in (home / ".kube" / "config").read_text()


def test_stop_stops_and_says_how_to_start_again(run: Run, provider: FakeProvider) -> None:
    run(*CREATE)
    result = run("stop-cluster", "demo")
    assert result.code == 0
    assert provider.clusters["demo"].state is ClusterState.STOPPED
    assert "create-cluster demo" in result.out


# --- list, describe, get-credentials, load-image ---


def test_list_is_a_table_an_object_or_a_hint(run: Run) -> None:
    empty = run("list-clusters")
    assert (empty.code, empty.out) == (0, "")
    assert "create-cluster" in empty.err
    assert run("list-clusters", "--output", "json").json == {"items": []}
    for name in ("zeta", "alpha"):
        run("create-cluster", name, "--dataplane-v2")
    lines = run("list-clusters").out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "alpha", "zeta"]
    assert [item["name"] for item in yaml.safe_load(run("list-clusters", "-o", "yaml").out)["items"]] == ["alpha", "zeta"]


def test_describe_shows_spec_and_details(run: Run) -> None:
    run(*CREATE)
    text = run("describe-cluster", "demo").out
    assert "podCIDR: 10.244.0.0/16" in text
    assert "address: 172.30.0.10" in text
    assert run("describe-cluster", "nothing", "-o", "json").error["exitCode"] == 6


def test_get_credentials_writes_where_kubeconfig_points(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*CREATE, "--no-kubeconfig")
    missing, there = tmp_path / "missing", tmp_path / "there"
    there.touch()
    monkeypatch.setenv("KUBECONFIG", f"{missing}:{there}")
    data = run("get-credentials", "demo", "--output", "json").json
    assert data == {"name": "demo", "kubeconfig": str(there), "context": "provisioner-demo"}
    assert run("get-credentials", "nothing").code == 6


def test_get_credentials_prints_a_whole_kubeconfig_when_asked_to(run: Run, home: Path, provider: FakeProvider) -> None:
    run(*CREATE, "--no-kubeconfig")
    printed = yaml.safe_load(run("get-credentials", "demo", "--kubeconfig", "-").out)
    assert printed == run("get-credentials", "demo", "--kubeconfig", "-", "--output", "json").json
    assert printed["current-context"] == "provisioner-demo"
    assert base64.b64decode(printed["users"][0]["user"]["client-key-data"]).decode() == KEY
    assert not (home / ".kube").exists()
    assert not Path("-").exists()
    assert run("get-credentials", "nothing", "--kubeconfig", "-").code == 6


def test_no_stream_and_no_journal_ever_holds_the_key(run: Run, provider: FakeProvider) -> None:
    for output in ("table", "json", "yaml"):
        for command in (CREATE, ("describe-cluster", "demo"), ("get-credentials", "demo"), ("list-clusters",)):
            result = run(*command, "--output", output)
            assert KEY not in result.out + result.err
    assert KEY not in provider.journal("demo").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
def test_under_sudo_the_caller_s_kubeconfig_is_written_with_the_caller_s_rights(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pwd
    from types import SimpleNamespace

    nobody = pwd.getpwnam("nobody")
    his = Path("/tmp/pvt-cli-sudo-home")
    import shutil

    shutil.rmtree(his, ignore_errors=True)
    his.mkdir(mode=0o700)
    try:
        os.chown(his, nobody.pw_uid, nobody.pw_gid)
        fake_user = SimpleNamespace(pw_dir=str(his), pw_name="nobody", pw_gid=nobody.pw_gid, pw_uid=nobody.pw_uid)
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: fake_user)
        monkeypatch.setenv("SUDO_UID", str(nobody.pw_uid))
        assert run(*CREATE).code == 0
        written = his / ".kube" / "config"
        assert (written.stat().st_uid, written.stat().st_mode & 0o777) == (nobody.pw_uid, 0o600)
        assert os.geteuid() == 0
        # A link to where only root may write is not followed with root's rights.
        written.unlink()
        trap = tmp_path / "roots-own"
        written.symlink_to(trap)
        assert run("get-credentials", "demo").code == 7
        assert not trap.exists()
    finally:
        shutil.rmtree(his)


def test_load_image_hands_over_absolute_paths_and_prints_the_names(
    run: Run, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*CREATE)
    (tmp_path / "a.tar").touch()
    monkeypatch.chdir(tmp_path)
    assert run("load-image", "demo", "a.tar").out == "image-of-a.tar\n"
    assert provider.loaded == [tmp_path / "a.tar"]
    assert run("load-image", "demo", "missing.tar").code == 6


# --- schema, version, usage ---


def test_schema_and_version_need_no_provider(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*arguments: object) -> None:
        raise AssertionError("opened a provider")

    monkeypatch.setattr(backend, "open_provider", unavailable)
    assert main.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Cluster"
    assert main.main(["version", "-o", "yaml"]) == 0
    assert set(yaml.safe_load(capsys.readouterr().out)) == {"version", "kubernetes", "dataplane", "apiVersion"}
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("provisioner ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create-cluster", "demo", "--num-node", "3"), "--num-nodes"),
        (("create-cluster", "demo", "--num-nodes", "three"), "--num-nodes"),
        (("make-cluster",), "make-cluster"),
        (("describe-cluster",), "NAME"),
        (("list-clusters", "extra"), "extra"),
        (("list-clusters", "--output", "xml"), "xml"),
        (("delete-cluster", "demo", "--timeout", "soon"), "soon"),
        (("create-cluster", "demo", "--dataplane-v2", "--label", "x"), "KEY=VALUE"),
        (("create-cluster", "--dataplane-v2"), "metadata.name"),
        (("create-cluster", "demo", "--dataplane-v2", "--num-nodes", "0"), "--num-nodes"),
        (("create-cluster", "demo", "--dataplane-v2", "--mtu", "0"), "--mtu"),
        (("create-cluster", "Bad_Name", "--dataplane-v2"), "DNS-1123"),
        (("create-cluster", "demo", "--dataplane-v2", "--provider", "moon"), "moon"),
    ],
)
def test_a_wrong_command_line_ends_with_3_and_names_what_is_wrong(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.code == 3
    assert result.out == ""
    assert words in result.err
    assert result.err.count("error:") == 1


def test_a_usage_error_is_json_when_json_is_asked_for(run: Run) -> None:
    result = run("create-cluster", "demo", "--num-nodes", "three", "--output=json")
    assert result.error["id"] == "usage"
    assert result.error["field"] == "--num-nodes"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--config", "missing.yaml"), 6), (("--config", "/"), 3), (("--kubernetes-version", "1.34"), 3), (("--pod-cidr", "10.96.0.0/16"), 3)],
)
def test_a_spec_that_cannot_be_had_is_refused(run: Run, arguments: tuple[str, ...], code: int) -> None:
    assert run(*CREATE, *arguments).code == code


def test_a_document_may_come_from_stdin(run: Run, provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO(Path(document(tmp_path, numNodes=3)).read_text()))
    assert run("create-cluster", "--dataplane-v2", "--config", "-").code == 0
    assert provider.clusters["filed"].num_nodes == 3


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5s", 1.5), ("5m", 300), ("1h30m", 5400), ("1m30s", 90)])
def test_times_are_read(text: str, seconds: float) -> None:
    from provisioner.cli.options import duration

    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "5d", "m", "1m5h", "soon", "0s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    from provisioner.cli.options import duration

    with pytest.raises(errors.Usage):
        duration(text)


def test_without_root_the_error_gives_the_command_with_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/provisioner", "create-cluster", "demo", "--dataplane-v2"])
    with pytest.raises(errors.PermissionMissing) as caught:
        backend.open_provider()
    assert caught.value.remedy == "Run: sudo provisioner create-cluster demo --dataplane-v2"


def test_every_error_has_an_id_of_its_own_and_a_documented_exit_code() -> None:
    def all_kinds(kind: type[errors.ProvisionerError]) -> list[type[errors.ProvisionerError]]:
        return [kind, *(each for child in kind.__subclasses__() for each in all_kinds(child))]

    kinds = [kind for kind in all_kinds(errors.ProvisionerError) if kind.__module__ == "provisioner.errors"]
    assert len({kind.id for kind in kinds}) == len(kinds)
    assert {kind.exit_code for kind in kinds} <= {1, 2, 3, 4, 5, 6, 7, 8, 9, 130}
