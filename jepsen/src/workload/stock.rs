//! Orders, which take frozen stock, and goods that come in.

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Part, Plan};

/// SKUs in each database.
pub(super) const SKUS: u32 = 4;
/// The one that everybody wants.
const HOT: u32 = 1;

pub(super) fn draw(random: &mut StdRng, databases: usize, number: i64) -> Plan {
    // The first database has the orders, if there is another for the goods.
    let first = usize::from(databases > 1);
    let database = random.random_range(first..databases);
    let sku = if random.random_ratio(7, 10) { HOT } else { random.random_range(1..=SKUS) };
    // About as much comes in as is asked for: again and again an SKU is sold out.
    if random.random_ratio(1, 10) {
        let part = Part(database, "receive".to_owned(), sku, random.random_range(4..=20));
        return Plan::moves(number, "receive", vec![part]);
    }
    let mut goods = |database, sku| Part(database, "reserve".to_owned(), sku, random.random_range(1..=3));
    let mut parts = vec![goods(database, sku)];
    // Every fifth order takes goods from two places.
    if number % 5 == 0 {
        let other = if databases > first + 1 {
            first + (database + 1 - first) % (databases - first)
        } else {
            database
        };
        parts.push(goods(other, SKUS));
    }
    let quantity = parts.iter().map(|part| part.3).sum();
    parts.insert(0, Part(0, "order".to_owned(), 0, quantity));
    Plan::moves(number, "purchase", parts)
}
