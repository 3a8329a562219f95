"""The client's commands, run for real: TCC branches, at the stock and payment services of order-stock."""

from collections.abc import Iterator

import pytest

from demos import Demo, execute, gtid, running


@pytest.fixture(scope="module")
def shop() -> Iterator[Demo]:
    with running("order-stock -- --orders 10 --buyers 5") as demo:
        yield demo


def on_hand(shop: Demo) -> list[tuple]:
    """What there is of an SKU and in an account, and how much of it is frozen."""
    _, stock, payment = shop.services
    [goods] = stock.sql("SELECT on_hand, frozen FROM stock WHERE sku = 'T00102'")
    [money] = payment.sql("SELECT on_hand, frozen FROM balance WHERE sku = 'user-3'")
    return [goods, money]


def purchase(shop: Demo, cents: int) -> list[list[str]]:
    """The branches that sell two of it to the account's owner."""
    _, stock, payment = shop.services
    reserve = stock.branch("tcc", "reserve", '{"items": [{"sku": "T00102", "quantity": 2}]}')
    pay = payment.branch("tcc", "pay", f'{{"user": 3, "cents": {cents}}}')
    return [reserve, pay]


def test_executes_a_purchase_by_tcc(shop: Demo):
    (goods, _), (money, _) = on_hand(shop)
    done = shop.client(*execute(*purchase(shop, 698)))
    assert done.returncode == 0, done
    assert on_hand(shop) == [(goods - 2, 0), (money - 698, 0)]


def test_a_refused_purchase_freezes_nothing(shop: Demo):
    before = on_hand(shop)
    refused = shop.client(*execute(*purchase(shop, 100_000_000)))
    assert refused.returncode == 1, refused
    assert "branch 2 (pay" in refused.stdout and "user 3 has" in refused.stdout
    assert on_hand(shop) == before


def test_registers_branches_and_commits_them(shop: Demo):
    (goods, _), (money, _) = on_hand(shop)
    begun = gtid(shop.client("begin"))
    reserve, pay = purchase(shop, 698)
    for key, branch, number in [("goods", reserve, 1), ("money", pay, 2), ("money", pay, 2)]:
        registered = shop.client("register", begun, *branch, "--key", key)
        assert registered.stdout == f"branch {number}\n", "the same key is the same branch"
    committed = shop.client("commit", begun)
    assert committed.returncode == 0, committed
    assert committed.stdout.startswith(f"{begun} COMMITTED")
    assert on_hand(shop) == [(goods - 2, 0), (money - 698, 0)]
