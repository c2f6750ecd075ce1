"""Many command lines of gcloud for the price of one start: run by gcloud's own launcher in its own interpreter.

The launcher puts CLOUDSDK_PYTHON_ARGS before the path of gcloud's entry point, so this file receives that path, loads gcloud, and for
each line of stdin (JSON: arguments, environment) forks a process that is gcloud with these, no more and no less. It answers with a line
of JSON: exit code, stdout, stderr. Run by gcloud's interpreter, so it knows nothing of this project's environment.
"""

import contextlib
import json
import os
import sys
import tempfile


def main():
    lib = sys.argv[1].rpartition("/")[0]
    sys.path[0] = lib
    import gcloud

    sys.path = gcloud.reorder_sys_path(sys.path)
    gcloud._fix_google_module()
    entry = gcloud._import_gcloud_main()
    # What a command imports it imports while it runs: run each once here, so that the children find all of it in memory.
    for command in ("create", "create-auto"):
        sys.argv = [
            f"{lib}/gcloud.py",
            "container",
            "clusters",
            command,
            f"warm-{command}",
            "--location",
            "us-central1",
            "--async",
        ]
        with silenced(), contextlib.suppress(SystemExit):
            entry.main()
    for line in sys.stdin:
        print(json.dumps(run(entry, lib, **json.loads(line))), flush=True)


@contextlib.contextmanager
def silenced():
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        sys.stdout.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def run(entry, lib, arguments, environment):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.environ.update(environment)
            sys.argv = [f"{lib}/gcloud.py", *arguments]
            code = 1
            try:
                entry.main()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        streams = []
        for stream in (out, err):
            stream.seek(0)
            streams.append(stream.read().decode("utf-8", "replace"))
        return {"code": os.waitstatus_to_exitcode(status), "out": streams[0], "err": streams[1]}


main()
