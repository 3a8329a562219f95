//! Reservations of stock and balances.
