//! What a call asks for, checked at the door.

use std::collections::BTreeMap;

use super::error::ReservationError;

/// Items in one call, at most.
pub const ITEMS_MAX: usize = 1_000;
/// The largest quantity, of an item and of an SKU's stock. 1,024 buckets of it still fit into an i64.
pub const QUANTITY_MAX: i64 = 1_000_000_000_000_000;
/// Characters of an SKU, at most.
pub const SKU_MAX_CHARS: usize = 64;

/// Each SKU once, with the sum of its quantities, sorted: every call locks SKUs in this order, so that no two
/// wait for each other.
#[derive(Debug, PartialEq)]
pub(crate) struct Items(BTreeMap<String, i64>);

impl Items {
    /// Checks a list of items, and sums those of the same SKU.
    pub(crate) fn check<S: AsRef<str>>(items: &[(S, i64)]) -> Result<Self, ReservationError> {
        if items.is_empty() {
            return Err(ReservationError::NoItems);
        }
        if items.len() > ITEMS_MAX {
            return Err(ReservationError::TooManyItems(items.len()));
        }
        let mut sums = BTreeMap::new();
        for (sku, quantity) in items {
            let sku = check_sku(sku.as_ref())?;
            check_quantity(sku, i128::from(*quantity))?;
            let sum = sums.entry(sku.to_owned()).or_insert(0);
            // At most 1,000 times a checked quantity.
            *sum += i128::from(*quantity);
        }
        let sums = sums.into_iter().map(|(sku, sum)| Ok((check_quantity(&sku, sum)?, sku)));
        sums.map(|sum| sum.map(|(quantity, sku)| (sku, quantity))).collect::<Result<_, _>>().map(Items)
    }

    /// In the order in which SKUs are locked.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(sku, quantity)| (sku.as_str(), *quantity))
    }
}

/// Refuses what the column cannot tell apart or hold: its collation takes no notice of spaces at the end.
pub(crate) fn check_sku(sku: &str) -> Result<&str, ReservationError> {
    let fits = (1..=SKU_MAX_CHARS).contains(&sku.chars().count());
    if fits && sku.trim() == sku && !sku.chars().any(char::is_control) {
        Ok(sku)
    } else {
        Err(ReservationError::Sku(sku.chars().take(2 * SKU_MAX_CHARS).collect()))
    }
}

pub(crate) fn check_quantity(sku: &str, quantity: i128) -> Result<i64, ReservationError> {
    match i64::try_from(quantity) {
        Ok(fits @ 1..=QUANTITY_MAX) => Ok(fits),
        _ => Err(ReservationError::Quantity { sku: sku.to_owned(), quantity }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(items: &[(&str, i64)]) -> Result<Vec<(String, i64)>, String> {
        let items = Items::check(items).map_err(|error| error.to_string())?;
        Ok(items.iter().map(|(sku, quantity)| (sku.to_owned(), quantity)).collect())
    }

    #[test]
    fn items_are_sorted_and_summed() {
        let items = check(&[("b", 2), ("a", 1), ("b", 3), ("B", 4), ("ä", QUANTITY_MAX)]).unwrap();
        let wanted = [("B", 4), ("a", 1), ("b", 5), ("ä", QUANTITY_MAX)];
        assert_eq!(items, wanted.map(|(sku, quantity)| (sku.to_owned(), quantity)));
    }

    #[test]
    fn bad_quantities_are_refused() {
        for quantity in [0, -1, i64::MIN, QUANTITY_MAX + 1, i64::MAX] {
            let refused = check(&[("a", 1), ("b", quantity)]).unwrap_err();
            assert_eq!(
                refused,
                format!("the quantity of b is {quantity}, which is not from 1 to {QUANTITY_MAX}")
            );
        }
        // Each fits, the sum does not, and where a sum would overflow it does not wrap around to something that does.
        let sum = check(&[("a", QUANTITY_MAX), ("a", 1)]).unwrap_err();
        assert_eq!(sum, "the quantity of a is 1000000000000001, which is not from 1 to 1000000000000000");
        assert!(check(&[("a", QUANTITY_MAX); ITEMS_MAX]).is_err());
    }

    #[test]
    fn bad_lists_are_refused() {
        assert_eq!(check(&[]).unwrap_err(), "there are no items");
        assert_eq!(check(&[("a", 1); 1_001]).unwrap_err(), "there are 1001 items; 1000 at most");
        assert_eq!(check(&[("a", 1); 1_000]).unwrap(), [("a".to_owned(), 1_000)]);
    }

    #[test]
    fn bad_skus_are_refused() {
        let long = "ä".repeat(SKU_MAX_CHARS + 1);
        for sku in ["", " ", "a ", " a", "a\u{0}", "a\nb", "\u{7f}", &long] {
            let refused = check(&[(sku, 1)]).unwrap_err();
            assert!(refused.contains("is no SKU"), "{sku:?}: {refused}");
        }
        for sku in ["T00101", "a b", "日本", "'; DROP TABLE stock; --", &long[2..]] {
            assert!(check(&[(sku, 1)]).is_ok(), "{sku:?}");
        }
    }
}
