"""The client's commands, run for real: XA branches, at the banks of bank-transfer."""

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from demos import Demo, execute, gtid, running


@pytest.fixture(scope="module")
def banks() -> Iterator[Demo]:
    with running("bank-transfer -- --accounts 20 --transfers 1") as demo:
        # The demo's random transfer may have emptied an account.
        for bank in demo.services:
            bank.sql("UPDATE account SET balance = 1000")
        yield demo


def balances(banks: Demo, account: int) -> list[int]:
    """What is in this account at each bank."""
    rows = [bank.sql(f"SELECT balance FROM account WHERE id = {account}") for bank in banks.services]
    return [balance for [(balance,)] in rows]


def transfer(banks: Demo, key: str, account: int, amount: int) -> list[str]:
    """The command that moves money from bank A to bank B, between accounts of the same number."""
    entry = f'{{"transfer": "{key}", "account": {account}, "amount": {amount}}}'
    a, b = banks.services
    return [*execute(a.branch("xa", "debit", entry), b.branch("xa", "credit", entry)), "--key", key]


@contextlib.contextmanager
def paused(pid: int):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_executes_a_transfer_and_watches_it_to_the_end(banks: Demo):
    a, b = balances(banks, 2)
    done = banks.client(*transfer(banks, "moves", 2, 100), "--name", "by python")
    assert done.returncode == 0, done
    assert "COMMITTED" in done.stdout
    assert balances(banks, 2) == [a - 100, b + 100]

    watched = banks.client("watch", gtid(done))
    assert (watched.returncode, watched.stdout) == (0, done.stdout)
    history = banks.client("get", gtid(done)).stdout
    assert "decided: commit" in history and history.rstrip().endswith("committed"), history


def test_a_refusal_is_an_outcome_and_changes_nothing(banks: Demo):
    before = balances(banks, 3)
    refused = banks.client(*transfer(banks, "too much", 3, 100_000))
    assert refused.returncode == 1, refused
    assert "ROLLED_BACK" in refused.stdout and "insufficient funds" in refused.stdout
    assert balances(banks, 3) == before


def test_a_repeat_with_the_same_key_is_the_same_transaction(banks: Demo):
    a, b = balances(banks, 4)
    first = banks.client(*transfer(banks, "again", 4, 100))
    again = banks.client(*transfer(banks, "again", 4, 100))
    assert (first.returncode, again.returncode) == (0, 0), (first, again)
    assert again.stdout == first.stdout
    assert balances(banks, 4) == [a - 100, b + 100]

    other = banks.client(*transfer(banks, "again", 4, 101))
    assert other.returncode == 2, other
    assert other.stderr.startswith("ALREADY_EXISTS / IDEMPOTENCY_KEY_REUSED: ")
    assert balances(banks, 4) == [a - 100, b + 100]


def test_a_call_whose_outcome_is_unknown_is_repeated_and_money_moves_once(banks: Demo):
    a, b = balances(banks, 5)
    slow = ["--deadline", "0.5"]
    with paused(banks.services[0].pid):
        patient = banks.start(*slow, *transfer(banks, "slow", 5, 100))
        assert patient.stderr.readline().startswith("asking again after ")
        impatient = banks.client(*slow, "--give-up-after", "0", *transfer(banks, "slow", 5, 100))
        assert impatient.returncode == 3, impatient
    out, err = patient.communicate()
    assert patient.returncode == 0, (out, err)
    assert gtid(banks.client(*transfer(banks, "slow", 5, 100))) in out
    assert balances(banks, 5) == [a - 100, b + 100]


def test_what_is_decided_is_told_at_the_deadline_and_watched_until_it_is_delivered(banks: Demo):
    a, b = balances(banks, 6)
    banks.hold.touch()
    try:
        decided = banks.client("--deadline", "1", *transfer(banks, "held", 6, 100))
        assert decided.returncode == 0, decided
        assert " COMMITTING" in decided.stdout
        assert balances(banks, 6)[1] == b
        watching = banks.start("watch", gtid(decided))
        assert " COMMITTING" in watching.stdout.readline()
    finally:
        banks.hold.unlink()
    rest, _ = watching.communicate()
    assert watching.returncode == 0
    assert f"{gtid(decided)} COMMITTED" in rest
    assert balances(banks, 6) == [a - 100, b + 100]


def test_begins_watches_and_rolls_back(banks: Demo):
    begun = banks.client("begin", "--name", "by hand", "--timeout-ms", "3600000")
    assert begun.returncode == 0, begun
    it = gtid(begun)
    watching = banks.start("watch", it)
    assert watching.stdout.readline().strip() == f"{it} ACTIVE"

    rolled_back = banks.client("rollback", it, "--reason", "second thoughts")
    assert (rolled_back.returncode, rolled_back.stdout) == (0, f"{it} ROLLED_BACK second thoughts\n")
    rest, _ = watching.communicate()
    assert (watching.returncode, rest) == (1, rolled_back.stdout)

    late = banks.client("commit", it)
    assert late.returncode == 1, late
    assert late.stderr.startswith("ABORTED / ROLLED_BACK: ")


def test_branches_of_both_kinds_share_one_outcome(banks: Demo):
    before = balances(banks, 7)
    # A bank's handlers are for XA branches only: a TCC branch of the same name is refused.
    bank = banks.services[1]
    bonus = bank.branch("tcc", "credit", '{"transfer": "bonus", "account": 8, "amount": 1}')
    both = banks.client(*transfer(banks, "mixed", 7, 100), "--branch", *bonus)
    assert both.returncode == 1, both
    assert f"branch 3 (credit at {bank.url}) refused" in both.stdout
    assert balances(banks, 7) == before


def test_errors_have_a_reason(banks: Demo):
    unknown = banks.client("get", "00000000-0000-8000-8000-000000000000")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("NOT_FOUND / UNKNOWN_GTID: ")

    not_allowed = banks.client(*execute(["xa", "http://192.0.2.1:7101", "debit", "{}"]))
    assert not_allowed.returncode == 2
    assert "PERMISSION_DENIED / PARTICIPANT_NOT_ALLOWED: " in not_allowed.stderr

    no_kind = banks.client(*execute(banks.services[0].branch("saga", "debit", "{}")))
    assert no_kind.returncode == 2
    assert "BRANCH_KIND_SAGA" in no_kind.stderr
