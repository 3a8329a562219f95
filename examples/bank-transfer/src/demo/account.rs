//! Who has accounts where, and what is to move between them.

use std::fmt;

use serde::Serialize;

/// One of the two banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub(crate) enum Bank {
    /// The first.
    A,
    /// The second.
    B,
}

impl Bank {
    /// Both, in order.
    pub(crate) const ALL: [Bank; 2] = [Bank::A, Bank::B];

    /// The other one.
    pub(crate) fn other(self) -> Bank {
        match self {
            Bank::A => Bank::B,
            Bank::B => Bank::A,
        }
    }

    /// Its place in a pair.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// For file names.
    pub(crate) fn slug(self) -> &'static str {
        match self {
            Bank::A => "bank-a",
            Bank::B => "bank-b",
        }
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// An account at one of the banks, written `A-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    /// Where it is kept.
    pub bank: Bank,
    /// From 1 up.
    pub number: u32,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.bank, self.number)
    }
}

/// Money on its way from one bank to the other.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    /// The initiator's own name for it, and its idempotency key: however often it is sent, it happens once.
    pub key: String,
    /// Debited.
    pub from: Account,
    /// Credited.
    pub to: Account,
    /// More than zero.
    pub amount: i64,
}
