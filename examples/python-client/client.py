"""A small client of the Concord coordinator: begins, executes and watches global transactions over gRPC.

Class Coordinator is the part to copy; below it is a command line around it. The messages are generated from
proto/ by setup.sh.
"""

import argparse
import sys
import time
import uuid
from collections.abc import Iterator

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from concord.v1 import coordinator_pb2 as api
from concord.v1 import transaction_pb2 as model
from concord.v1.coordinator_pb2_grpc import CoordinatorStub

# After these a call may have taken effect, or did not for the moment only. (At a deadline a server and its client
# race to say so, as CANCELLED or DEADLINE_EXCEEDED.) Any other status is the coordinator's last word.
OUTCOME_UNKNOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
# Seconds before a call is repeated.
REPEAT_AFTER = 0.2


class Coordinator:
    """The coordinator at an address such as "127.0.0.1:7600".

    `deadline` is how long one call may take, in seconds. gRPC sends it along; just before it the coordinator
    answers for a transaction that is decided (COMMITTING), though a branch has yet to hear of it. A call whose
    outcome is unknown is repeated, for `give_up_after` seconds. Every call here is safe to repeat.
    """

    def __init__(self, address: str, deadline: float = 10, give_up_after: float = 30):
        # While the coordinator is away, look for it every second, not less and less often.
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 1000)])
        self.stub = CoordinatorStub(self.channel)
        self.deadline = deadline
        self.give_up_after = give_up_after

    def execute(self, request: api.ExecuteRequest) -> api.ExecuteResponse:
        """Runs a whole transaction. A refusal by a branch is an outcome (ROLLED_BACK), not an error.

        The idempotency key is what makes it safe to repeat: whether or not an earlier call has arrived, the
        transaction runs once, and every call with this key answers with its outcome.
        """
        if not request.idempotency_key:
            raise ValueError("without an idempotency key, a repeated Execute is a second transaction")
        return self._call(self.stub.Execute, request)

    def begin(self, request: api.BeginRequest) -> api.BeginResponse:
        """Begins a transaction that the initiator drives. It passes the gtid to the services that it calls, in
        the request metadata `concord-gtid`, and they join."""
        return self._call(self.stub.Begin, request)

    def register(self, request: api.RegisterBranchRequest) -> api.RegisterBranchResponse:
        """Adds a branch. Services do this for themselves; an initiator may do it for a TCC branch, which the
        coordinator tries when it is told to commit."""
        return self._call(self.stub.RegisterBranch, request)

    def commit(self, gtid: str) -> model.Transaction:
        """Ends it. When it was rolled back instead, the error is ABORTED / ROLLED_BACK."""
        return self._call(self.stub.Commit, api.CommitRequest(gtid=gtid)).transaction

    def rollback(self, gtid: str, reason: str) -> model.Transaction:
        """Ends it. When it was committed, the error is FAILED_PRECONDITION / ALREADY_COMMITTED."""
        return self._call(self.stub.Rollback, api.RollbackRequest(gtid=gtid, reason=reason)).transaction

    def get(self, gtid: str) -> model.Transaction:
        """A transaction, with its history."""
        return self._call(self.stub.Get, api.GetRequest(gtid=gtid)).transaction

    def watch(self, gtid: str) -> Iterator[model.Transaction]:
        """A transaction now and after each change, until it has ended, however long that takes."""
        return (change.transaction for change in self.stub.Watch(api.WatchRequest(gtid=gtid)))

    def _call(self, method, request):
        give_up_at = time.monotonic() + self.give_up_after
        while True:
            try:
                return method(request, timeout=self.deadline)
            except grpc.RpcError as error:
                if error.code() not in OUTCOME_UNKNOWN or time.monotonic() > give_up_at:
                    raise
                print(f"asking again after {describe(error)}", file=sys.stderr, flush=True)
            time.sleep(REPEAT_AFTER)


def reason(error: grpc.RpcError) -> str | None:
    """The stable reason in an error's details, such as "UNKNOWN_GTID": what a program should go by, as messages
    are for people. None when the error is not the coordinator's own but, say, the network's."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == "concord":
            return info.reason
    return None


def describe(error: grpc.RpcError) -> str:
    return f"{error.code().name} / {reason(error) or 'no reason given'}: {error.details()}"


# ---- The command line ----

EXIT_CODES = (
    "Exit codes: 0 done, 1 rolled back, 2 an error, 3 outcome unknown: run it again, with the same --key."
)


def main() -> int:
    args = arguments().parse_args()
    coordinator = Coordinator(args.coordinator, args.deadline, args.give_up_after)
    try:
        return args.run(coordinator, args)
    except grpc.RpcError as error:
        print(describe(error), file=sys.stderr)
        if error.code() in OUTCOME_UNKNOWN:
            return 3
        return 1 if reason(error) == "ROLLED_BACK" else 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A small client of the coordinator.", epilog=EXIT_CODES)
    seconds = {"type": float, "metavar": "SECONDS"}
    parser.add_argument("--coordinator", default="127.0.0.1:7600", metavar="HOST:PORT", help="[%(default)s]")
    parser.add_argument("--deadline", default=10.0, help="of one call [%(default)s]", **seconds)
    parser.add_argument("--give-up-after", default=30.0, help="of asking again [%(default)s]", **seconds)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    branch = ("KIND", "PARTICIPANT", "ACTION", "PAYLOAD")
    beginning = argparse.ArgumentParser(add_help=False)
    beginning.add_argument("--key", default="", help="idempotency key [execute makes one up]")
    beginning.add_argument("--name", default="", help="for people, in listings")
    beginning.add_argument("--timeout-ms", type=int, default=0, help="roll back if undecided by then [30000]")

    def command(run, help, *positional, **more):
        sub = commands.add_parser(run.__name__, help=help, description=help, **more)
        sub.set_defaults(run=run)
        for name in positional:
            sub.add_argument(name.lower(), metavar=name)
        return sub

    sub = command(execute, "run a whole transaction", parents=[beginning])
    sub.add_argument(
        "--branch",
        action="append",
        nargs=4,
        metavar=branch,
        required=True,
        help="one or more. KIND: xa or tcc; PAYLOAD: as the participant's handler wants it",
    )
    sub.add_argument("--decided", action="store_true", help="do not wait for phase two")
    command(begin, "begin a transaction, and print its gtid", parents=[beginning])
    sub = command(register, "add a TCC branch", "GTID", *branch)
    sub.add_argument("--key", default="", help="registration key: a repeat is the same branch")
    command(commit, "commit a transaction", "GTID")
    sub = command(rollback, "roll a transaction back", "GTID")
    sub.add_argument("--reason", default="", help="for its history")
    command(get, "show a transaction, with its history", "GTID")
    command(watch, "show a transaction, and again after each change, until it has ended", "GTID")
    return parser


def execute(coordinator: Coordinator, args: argparse.Namespace) -> int:
    if not args.key:
        args.key = str(uuid.uuid4())
        print(f"idempotency key: {args.key}", file=sys.stderr, flush=True)
    request = api.ExecuteRequest(
        name=args.name,
        branches=[
            api.BranchRequest(
                kind=kind(name), participant=participant, action=action, payload=payload.encode()
            )
            for name, participant, action, payload in args.branch
        ],
        wait=model.WAIT_DECIDED if args.decided else model.WAIT_COMPLETED,
        timeout_ms=args.timeout_ms,
        idempotency_key=args.key,
    )
    response = coordinator.execute(request)
    show(response.transaction)
    for number, reply in enumerate(response.replies, 1):
        if reply:
            print(f"   reply of branch {number}: {reply.decode(errors='replace')}")
    return exit_code(response.transaction)


def begin(coordinator: Coordinator, args: argparse.Namespace) -> int:
    request = api.BeginRequest(name=args.name, timeout_ms=args.timeout_ms, idempotency_key=args.key)
    print(coordinator.begin(request).gtid)
    return 0


def register(coordinator: Coordinator, args: argparse.Namespace) -> int:
    request = api.RegisterBranchRequest(
        gtid=args.gtid,
        kind=kind(args.kind),
        participant=args.participant,
        registration_key=args.key or str(uuid.uuid4()),
        action=args.action,
        payload=args.payload.encode(),
    )
    print(f"branch {coordinator.register(request).branch_id}")
    return 0


def commit(coordinator: Coordinator, args: argparse.Namespace) -> int:
    show(coordinator.commit(args.gtid))
    return 0


def rollback(coordinator: Coordinator, args: argparse.Namespace) -> int:
    show(coordinator.rollback(args.gtid, args.reason))
    return 0


def get(coordinator: Coordinator, args: argparse.Namespace) -> int:
    transaction = coordinator.get(args.gtid)
    show(transaction)
    for event in transaction.history:
        print(f"   {event.at.ToDatetime().isoformat(timespec='milliseconds')}Z  {event.detail}")
    return 0


def watch(coordinator: Coordinator, args: argparse.Namespace) -> int:
    for transaction in coordinator.watch(args.gtid):
        show(transaction)
    return exit_code(transaction)


def kind(name: str) -> int:
    return model.BranchKind.Value(f"BRANCH_KIND_{name.upper()}")


def show(transaction: model.Transaction):
    state = model.TransactionState.Name(transaction.state).removeprefix("TRANSACTION_STATE_")
    print(f"{transaction.gtid} {state} {transaction.reason}".rstrip())
    for branch in transaction.branches:
        state = model.BranchState.Name(branch.state).removeprefix("BRANCH_STATE_")
        line = f"   {branch.branch_id}  {branch.action} at {branch.participant}: {state} {branch.last_error}"
        print(line.rstrip())
    sys.stdout.flush()


def exit_code(transaction: model.Transaction) -> int:
    return int(
        transaction.state in (model.TRANSACTION_STATE_ROLLING_BACK, model.TRANSACTION_STATE_ROLLED_BACK)
    )


if __name__ == "__main__":
    sys.exit(main())
