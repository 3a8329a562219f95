"""What the demos leave running with --keep, for the client to be run against: real databases, services, a
coordinator."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pymysql

HERE = Path(__file__).parent
# Seconds: far more than a command takes here. One that hangs is ended, and the test fails.
PATIENCE = "60"
GTID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Service:
    """A participant of a demo, with the process that it was started as."""

    name: str
    pid: int
    url: str
    mysql_port: int

    def branch(self, kind: str, action: str, payload: str) -> list[str]:
        """A branch at this service, as the client takes it."""
        return [kind, self.url, action, payload]

    def sql(self, statement: str) -> tuple:
        """Runs a statement in the service's own database, and gives the rows."""
        database = self.name.lower().replace(" ", "_")
        options = {"host": "127.0.0.1", "port": self.mysql_port, "user": "root", "database": database}
        with pymysql.connect(**options, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()


class Demo:
    """What a demo has left running, by what it said."""

    def __init__(self, said: str):
        self.coordinator = re.search(r"coordinator +process \d+, (\S+);", said)[1]
        lines = re.findall(r"^ +(\S.*?) +process (\d+), (\S+);.* on port (\d+)$", said, re.MULTILINE)
        # Said once more at the end, it holds then.
        services = {name: Service(name, int(pid), f"http://{at}", int(port)) for name, pid, at, port in lines}
        self.services = list(services.values())
        # While there is this file, one of the services turns decisions away.
        self.hold = Path(re.search(r"While there is a file (\S+),", said)[1])

    def client(self, *arguments: str) -> subprocess.CompletedProcess:
        with self.start(*arguments) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(self, *arguments: str) -> subprocess.Popen:
        client = [sys.executable, HERE / "client.py", "--coordinator", self.coordinator]
        command = ["timeout", PATIENCE, *client, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running(demo: str) -> Iterator[Demo]:
    """Runs a demo to its end, and then keeps everything running that it has started."""
    command = f"cargo run --quiet --release --locked --bin {demo} --keep".split()
    # On servers of its own, whatever else the tests use: we read the books as root.
    environment = {name: value for name, value in os.environ.items() if name != "CONCORD_TEST_MYSQL_URL"}
    with subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = ""
            while "While there is a file" not in said:
                line = process.stdout.readline()
                assert line, f"the demo ended early:\n{said}"
                said += line
            yield Demo(said)
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
    assert process.returncode == 0, said


def execute(*branches: list[str]) -> list[str]:
    """The command that runs these branches."""
    return ["execute", *(argument for branch in branches for argument in ["--branch", *branch])]


def gtid(result: subprocess.CompletedProcess) -> str:
    """The first one that a command has printed."""
    return GTID.search(result.stdout)[0]
