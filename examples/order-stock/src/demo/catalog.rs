//! What the shop sells, for how much, and who may buy it.

/// Goods, each with its price in cents.
pub(crate) const PRICES: [(&str, i64); 10] = [
    ("T00101", 1_999),
    ("T00102", 349),
    ("T00103", 1_250),
    ("T00104", 799),
    ("T00105", 2_400),
    ("T00106", 95),
    ("T00107", 1_899),
    ("T00108", 620),
    ("T00109", 1_475),
    (HOT, 499),
];
/// What half of all orders are about, and of which there is too little.
pub(crate) const HOT: &str = "T00110";
/// How much there is of everything else.
pub(crate) const PLENTY: i64 = 1_000_000;
/// What is in an account at first, in cents.
pub(crate) const OPENING_BALANCE: i64 = 1_000_000;

/// Who places the orders that are told about one by one.
pub(crate) const CUSTOMER: u32 = 5;
/// A user with little money, who is none of the buyers.
pub(crate) const POOR: u32 = 10_001;
/// What the poor user has, in cents.
pub(crate) const POOR_BALANCE: i64 = 1_000;
/// As many can buy at the same time.
pub(crate) const BUYERS_MAX: u32 = 10_000;

/// How much there is of the hot SKU: for about a third of those who want one.
pub(crate) fn scarce(orders: u64) -> i64 {
    i64::try_from(orders / 6).unwrap_or(i64::MAX).clamp(1, 1_000)
}

/// How much there is of an SKU at first.
pub(crate) fn opening_stock(sku: &str, orders: u64) -> i64 {
    if sku == HOT { scarce(orders) } else { PLENTY }
}

/// What a user has at first, in cents.
pub(crate) fn opening_balance(user: u32) -> i64 {
    if user == POOR { POOR_BALANCE } else { OPENING_BALANCE }
}

/// What one of an SKU costs.
pub(crate) fn price(sku: &str) -> i64 {
    PRICES.iter().find(|(name, _)| *name == sku).map_or(0, |(_, cents)| *cents)
}
