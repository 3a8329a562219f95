//! What an order can change: some goods, some money, and the number of orders.

use anyhow::{Result, ensure};
use concord_participant::reservations::Item;

use crate::demo::part::Part;
use crate::demo::say::{self, money, thousands};
use crate::demo::stage::Stage;
use crate::payment::account;

/// One SKU, one account and the orders, as they stand in the databases.
#[derive(Debug)]
pub(crate) struct View {
    sku: String,
    user: u32,
    goods: Item,
    money: Item,
    orders: usize,
}

impl View {
    /// Looks.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub(crate) async fn take(stage: &Stage, sku: &str, user: u32) -> Result<View> {
        Ok(View {
            goods: stage.books(Part::Stock).item(&stage.stock, sku).await?,
            money: stage.books(Part::Payment).item(&stage.balance, &account(user)).await?,
            orders: stage.books(Part::Order).orders().await?.len(),
            sku: sku.to_owned(),
            user,
        })
    }

    /// Looks again, and shows it.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub(crate) async fn now(&self, stage: &Stage) -> Result<View> {
        let now = View::take(stage, &self.sku, self.user).await?;
        let View { sku, user, goods, money: balance, orders } = &now;
        say::line(format!(
            "{sku}: {}, {} frozen   user {user}: {}, {} frozen   orders: {}",
            change(self.goods.on_hand, goods.on_hand, thousands),
            thousands(goods.frozen),
            change(self.money.on_hand, balance.on_hand, money),
            money(balance.frozen),
            change(self.orders, *orders, say::count),
        ));
        Ok(now)
    }

    /// Looks again, shows it, and sees to it that nothing is frozen and that so much goods and money are gone for
    /// one order; or, for nothing, none.
    ///
    /// # Errors
    /// When it is otherwise.
    pub(crate) async fn changed(&self, stage: &Stage, qty: i64, cents: i64) -> Result<()> {
        let now = self.now(stage).await?;
        let right = now.goods.frozen == 0
            && now.money.frozen == 0
            && now.goods.on_hand == self.goods.on_hand - qty
            && now.money.on_hand == self.money.on_hand - cents
            && now.orders == self.orders + usize::from(qty > 0);
        ensure!(right, "{qty} for {cents} cents, and nothing frozen, it should be: {self:?}, then {now:?}");
        Ok(())
    }

    /// Sees to it that so much goods and money are frozen.
    ///
    /// # Errors
    /// When it is otherwise.
    pub(crate) fn has_frozen(&self, qty: i64, cents: i64) -> Result<()> {
        let right = self.goods.frozen == qty && self.money.frozen == cents;
        ensure!(right, "{qty} for {cents} cents should be frozen: {self:?}");
        Ok(())
    }
}

fn change<T: PartialEq>(before: T, after: T, show: impl Fn(T) -> String) -> String {
    match before == after {
        true => format!("{}, unchanged", show(after)),
        false => format!("{} -> {}", show(before), show(after)),
    }
}
