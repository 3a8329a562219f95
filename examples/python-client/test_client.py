"""The client's commands, run for real: against the databases, banks and coordinator of `bank-transfer --keep`."""

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
import pytest

HERE = Path(__file__).parent
# Seconds: far more than a command takes here. One that hangs is ended, and the test fails.
PATIENCE = "60"
DEMO = "cargo run --quiet --release --locked --bin bank-transfer -- --keep --accounts 20 --transfers 1"
GTID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Stage:
    """What the demo has left running."""

    coordinator: str
    banks: list[str]
    # The process of bank A, which the demo has not killed.
    bank_a: int
    mysql_ports: list[int]
    # While there is this file, bank B turns commits away.
    hold: Path

    def balances(self, account: int) -> list[int]:
        """What is in this account at each bank, straight from their databases."""
        rows = self.sql(f"SELECT balance FROM account WHERE id = {account}")
        return [balance for [(balance,)] in rows]

    def sql(self, statement: str) -> list:
        """Runs a statement in each bank's database, and gives the rows."""
        rows = []
        for port, database in zip(self.mysql_ports, ["bank_a", "bank_b"]):
            options = {"host": "127.0.0.1", "port": port, "user": "root", "database": database}
            with pymysql.connect(**options, autocommit=True) as connection, connection.cursor() as cursor:
                cursor.execute(statement)
                rows.append(cursor.fetchall())
        return rows

    def client(self, *arguments: str) -> subprocess.CompletedProcess:
        with self.start(*arguments) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [
            "timeout",
            PATIENCE,
            sys.executable,
            HERE / "client.py",
            "--coordinator",
            self.coordinator,
            *arguments,
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def transfer(self, key: str, account: int, amount: int) -> list[str]:
        """The command that moves money from bank A to bank B, between accounts of the same number."""
        entry = f'{{"transfer": "{key}", "account": {account}, "amount": {amount}}}'
        debit, credit = [("xa", bank, action, entry) for bank, action in zip(self.banks, ["debit", "credit"])]
        return ["execute", "--key", key, "--branch", *debit, "--branch", *credit]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    # On servers of its own, whatever else the tests use: we read the books as root.
    environment = {name: value for name, value in os.environ.items() if name != "CONCORD_TEST_MYSQL_URL"}
    with subprocess.Popen(DEMO.split(), cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        try:
            stage = read_stage(demo)
            # The demo's random transfer may have emptied an account.
            stage.sql("UPDATE account SET balance = 1000")
            yield stage
        finally:
            demo.send_signal(signal.SIGINT)
            demo.stdout.read()
    assert demo.returncode == 0


def read_stage(demo: subprocess.Popen) -> Stage:
    said = ""
    for line in demo.stdout:
        said += line
        if hold := re.search(r"a file (\S+), bank B turns commits away", line):
            banks = re.findall(r"bank [AB] +process (\d+), (\S+);.* on port (\d+)", said)
            assert len(banks) == 2, said
            return Stage(
                coordinator=re.search(r"coordinator +process \d+, (\S+);", said)[1],
                banks=[f"http://{address}" for _, address, _ in banks],
                bank_a=int(banks[0][0]),
                mysql_ports=[int(port) for _, _, port in banks],
                hold=Path(hold[1]),
            )
    pytest.fail(f"the demo ended early:\n{said}")


@contextlib.contextmanager
def paused(pid: int):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def gtid(result: subprocess.CompletedProcess) -> str:
    return GTID.search(result.stdout)[0]


def test_executes_a_transfer_and_watches_it_to_the_end(stage: Stage):
    a, b = stage.balances(2)
    done = stage.client(*stage.transfer("moves", 2, 100), "--name", "by python")
    assert done.returncode == 0, done
    assert "COMMITTED" in done.stdout
    assert stage.balances(2) == [a - 100, b + 100]

    watched = stage.client("watch", gtid(done))
    assert (watched.returncode, watched.stdout) == (0, done.stdout)
    history = stage.client("get", gtid(done)).stdout
    assert "decided: commit" in history and history.rstrip().endswith("committed"), history


def test_a_refusal_is_an_outcome_and_changes_nothing(stage: Stage):
    before = stage.balances(3)
    refused = stage.client(*stage.transfer("too much", 3, 100_000))
    assert refused.returncode == 1, refused
    assert "ROLLED_BACK" in refused.stdout and "insufficient funds" in refused.stdout
    assert stage.balances(3) == before


def test_a_repeat_with_the_same_key_is_the_same_transaction(stage: Stage):
    a, b = stage.balances(4)
    first = stage.client(*stage.transfer("again", 4, 100))
    again = stage.client(*stage.transfer("again", 4, 100))
    assert (first.returncode, again.returncode) == (0, 0), (first, again)
    assert again.stdout == first.stdout
    assert stage.balances(4) == [a - 100, b + 100]

    other = stage.client(*stage.transfer("again", 4, 101))
    assert other.returncode == 2, other
    assert other.stderr.startswith("ALREADY_EXISTS / IDEMPOTENCY_KEY_REUSED: ")
    assert stage.balances(4) == [a - 100, b + 100]


def test_a_call_whose_outcome_is_unknown_is_repeated_and_money_moves_once(stage: Stage):
    a, b = stage.balances(5)
    slow = ["--deadline", "0.5"]
    with paused(stage.bank_a):
        patient = stage.start(*slow, *stage.transfer("slow", 5, 100))
        assert patient.stderr.readline().startswith("asking again after ")
        impatient = stage.client(*slow, "--give-up-after", "0", *stage.transfer("slow", 5, 100))
        assert impatient.returncode == 3, impatient
    out, err = patient.communicate()
    assert patient.returncode == 0, (out, err)
    assert gtid(stage.client(*stage.transfer("slow", 5, 100))) in out
    assert stage.balances(5) == [a - 100, b + 100]


def test_what_is_decided_is_told_at_the_deadline_and_watched_until_it_is_delivered(stage: Stage):
    a, b = stage.balances(6)
    stage.hold.touch()
    try:
        decided = stage.client("--deadline", "1", *stage.transfer("held", 6, 100))
        assert decided.returncode == 0, decided
        assert " COMMITTING" in decided.stdout
        assert stage.balances(6)[1] == b
        watching = stage.start("watch", gtid(decided))
        assert " COMMITTING" in watching.stdout.readline()
    finally:
        stage.hold.unlink()
    rest, _ = watching.communicate()
    assert watching.returncode == 0
    assert f"{gtid(decided)} COMMITTED" in rest
    assert stage.balances(6) == [a - 100, b + 100]


def test_begins_watches_and_rolls_back(stage: Stage):
    begun = stage.client("begin", "--name", "by hand", "--timeout-ms", "3600000")
    assert begun.returncode == 0, begun
    it = gtid(begun)
    watching = stage.start("watch", it)
    assert watching.stdout.readline().strip() == f"{it} ACTIVE"

    rolled_back = stage.client("rollback", it, "--reason", "second thoughts")
    assert (rolled_back.returncode, rolled_back.stdout) == (0, f"{it} ROLLED_BACK second thoughts\n")
    rest, _ = watching.communicate()
    assert (watching.returncode, rest) == (1, rolled_back.stdout)

    late = stage.client("commit", it)
    assert late.returncode == 1, late
    assert late.stderr.startswith("ABORTED / ROLLED_BACK: ")


def test_branches_of_both_kinds_share_one_outcome(stage: Stage):
    before = stage.balances(7)
    # A bank's handlers are for XA branches only: a TCC branch of the same name is refused.
    bonus = ["tcc", stage.banks[1], "credit", '{"transfer": "bonus", "account": 8, "amount": 1}']
    both = stage.client(*stage.transfer("mixed", 7, 100), "--branch", *bonus)
    assert both.returncode == 1, both
    assert f"branch 3 (credit at {stage.banks[1]}) refused" in both.stdout
    assert stage.balances(7) == before


def test_registers_a_branch_which_is_tried_at_commit(stage: Stage):
    begun = gtid(stage.client("begin"))
    register = ["register", begun, "tcc", stage.banks[1], "reserve", "{}", "--key", "one"]
    assert stage.client(*register).stdout == "branch 1\n"
    assert stage.client(*register).stdout == "branch 1\n", "the same key is the same branch"
    refused = stage.client("commit", begun)
    assert refused.returncode == 1, refused
    assert f"branch 1 (reserve at {stage.banks[1]}) refused" in refused.stderr


def test_errors_have_a_reason(stage: Stage):
    unknown = stage.client("get", "00000000-0000-8000-8000-000000000000")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("NOT_FOUND / UNKNOWN_GTID: ")

    elsewhere = ["--branch", "xa", "http://192.0.2.1:7101", "debit", "{}"]
    not_allowed = stage.client("execute", *elsewhere)
    assert not_allowed.returncode == 2
    assert "PERMISSION_DENIED / PARTICIPANT_NOT_ALLOWED: " in not_allowed.stderr

    no_kind = stage.client("execute", "--branch", "saga", stage.banks[0], "debit", "{}")
    assert no_kind.returncode == 2
    assert "BRANCH_KIND_SAGA" in no_kind.stderr
