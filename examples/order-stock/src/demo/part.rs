//! The three services.

use std::fmt;

/// One of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Orders: XA.
    Order,
    /// Goods: TCC.
    Stock,
    /// Money: TCC.
    Payment,
}

impl Part {
    /// All of them, in the order of an order's branches.
    pub(crate) const ALL: [Part; 3] = [Part::Order, Part::Stock, Part::Payment];

    /// Its place in a list of all, and its branch's place in a transaction.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// For file names, databases and command lines.
    pub(crate) fn slug(self) -> &'static str {
        match self {
            Part::Order => "order",
            Part::Stock => "stock",
            Part::Payment => "payment",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.slug())
    }
}
