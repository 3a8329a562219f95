//! Proving that the figures add up.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Reservations;
use super::error::ReservationError;
use super::rows::Reader;
use crate::local::LocalTransaction;

/// What an audit found: totals, and what does not add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The name of the reservations.
    pub name: String,
    /// How many SKUs there are.
    pub skus: i128,
    /// Reservations that are pending, counted by branch, SKU and bucket.
    pub pending_rows: i128,
    /// The figures of all SKUs together.
    pub totals: Figures,
    /// What does not add up. Empty: everything does.
    pub violations: Vec<Violation>,
}

/// Figures of a bucket, of an SKU, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// What the items say there is.
    pub on_hand: i128,
    /// What the items say can be reserved.
    pub available: i128,
    /// What the items say is reserved.
    pub frozen: i128,
    /// What the items say was added, less what was removed.
    pub received: i128,
    /// What the items say was confirmed.
    pub sold: i128,
    /// The sum of all pending reservations.
    pub pending: i128,
    /// The sum of what was confirmed of all reservations.
    pub confirmed: i128,
}

/// An SKU, or a bucket of one, whose figures do not add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which SKU.
    pub sku: String,
    /// Which bucket of it. None: all together.
    pub bucket: Option<i16>,
    /// Which rules are broken. At least one.
    pub rules: Vec<Rule>,
    /// All figures.
    pub figures: Figures,
}

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rule {
    /// In every bucket, `on_hand = available + frozen`.
    OnHand,
    /// In every bucket, `available >= 0` and `frozen >= 0`.
    NotNegative,
    /// In every bucket, `frozen` is the sum of the pending reservations.
    Frozen,
    /// Of every SKU, `on_hand = received - sold`.
    Received,
    /// Of every SKU, `sold` is the sum of what was confirmed of its reservations.
    Sold,
}

impl Rule {
    const BUCKET: [Rule; 3] = [Rule::OnHand, Rule::NotNegative, Rule::Frozen];
    const SKU: [Rule; 2] = [Rule::Received, Rule::Sold];

    /// The rule in SQL, which words it for people too.
    const fn sql(self) -> &'static str {
        match self {
            Rule::OnHand => "on_hand = available + frozen",
            Rule::NotNegative => "available >= 0 AND frozen >= 0",
            Rule::Frozen => "frozen = pending",
            Rule::Received => "on_hand = received - sold",
            Rule::Sold => "sold = confirmed",
        }
    }

    fn holds(self, figures: &Figures) -> bool {
        match self {
            Rule::OnHand => figures.on_hand == figures.available + figures.frozen,
            Rule::NotNegative => figures.available >= 0 && figures.frozen >= 0,
            Rule::Frozen => figures.frozen == figures.pending,
            Rule::Received => figures.on_hand == figures.received - figures.sold,
            Rule::Sold => figures.sold == figures.confirmed,
        }
    }
}

impl Audit {
    /// Whether everything adds up.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

impl Reservations {
    /// Proves, of every SKU, that `on_hand = available + frozen`, that `frozen` is the sum of the pending
    /// reservations (in every bucket too), and that `on_hand` is what came in less what was confirmed.
    ///
    /// One statement, and so one consistent read; it locks nothing, and others may go on. It reads all
    /// reservations that there ever were: run it at night.
    ///
    /// # Errors
    /// [`ReservationError::Database`].
    pub async fn audit<T: LocalTransaction>(&self, tx: &mut T) -> Result<Audit, ReservationError> {
        let rows = tx.query(&self.audit_sql(), Vec::new()).await?;
        let mut audit = Audit {
            name: self.name().to_owned(),
            skus: 0,
            pending_rows: 0,
            totals: Figures::default(),
            violations: Vec::new(),
        };
        for row in &rows {
            let mut row = Reader::new(self.items_table(), row);
            let (sku, bucket) = (row.optional_text()?, row.optional_number()?);
            let (skus, pending_rows) = (row.sum()?, row.sum()?);
            let figures = Figures {
                on_hand: row.sum()?,
                available: row.sum()?,
                frozen: row.sum()?,
                received: row.sum()?,
                sold: row.sum()?,
                pending: row.sum()?,
                confirmed: row.sum()?,
            };
            let Some(sku) = sku else {
                audit = Audit { skus, pending_rows, totals: figures, ..audit };
                continue;
            };
            let rules = if bucket.is_some() { &Rule::BUCKET[..] } else { &Rule::SKU[..] };
            let rules = rules.iter().copied().filter(|rule| !rule.holds(&figures)).collect();
            audit.violations.push(Violation { sku, bucket, rules, figures });
        }
        audit.violations.sort_by(|a, b| (&a.sku, a.bucket).cmp(&(&b.sku, b.bucket)));
        Ok(audit)
    }

    /// Sums by bucket, by SKU (bucket NULL) and of all (sku NULL), and of the first two only those that break
    /// a rule: there may be many SKUs.
    fn audit_sql(&self) -> String {
        let all = |rules: &[Rule]| rules.iter().map(|rule| rule.sql()).collect::<Vec<_>>().join(" AND ");
        let columns = ["on_hand", "available", "frozen", "received", "sold", "pending", "confirmed"];
        let sums = columns.map(|column| format!("SUM({column}) AS {column}")).join(", ");
        let digits = columns.map(|column| format!("CAST(IFNULL({column}, 0) AS CHAR)")).join(", ");
        // The rules are applied around the sums: MariaDB takes `sku IS NULL` in a HAVING for impossible.
        format!(
            "SELECT sku, bucket, CAST(skus AS CHAR), CAST(IFNULL(pending_rows, 0) AS CHAR), {digits} FROM ( \
               SELECT sku, bucket, COUNT(DISTINCT sku) AS skus, SUM(pending_rows) AS pending_rows, {sums} FROM ( \
                 SELECT sku, bucket, on_hand, available, frozen, received, sold, \
                        0 AS pending, 0 AS confirmed, 0 AS pending_rows FROM {items} \
                 UNION ALL \
                 SELECT sku, bucket, 0, 0, 0, 0, 0, \
                        SUM(IF(state = 'pending', quantity, 0)), SUM(confirmed), SUM(state = 'pending') \
                 FROM {reservations} GROUP BY sku, bucket \
               ) AS figures GROUP BY sku, bucket WITH ROLLUP \
             ) AS sums WHERE sku IS NULL OR bucket IS NULL AND NOT ({sku_rules}) \
               OR bucket IS NOT NULL AND NOT ({bucket_rules})",
            items = self.items_table(),
            reservations = self.reservations_table(),
            sku_rules = all(&Rule::SKU),
            bucket_rules = all(&Rule::BUCKET),
        )
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { on_hand, available, frozen, received, sold, pending, confirmed } = self;
        write!(
            f,
            "on_hand {on_hand}, available {available}, frozen {frozen}, received {received}, sold {sold}; \
             reservations: pending {pending}, confirmed {confirmed}"
        )
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sku)?;
        if let Some(bucket) = self.bucket {
            write!(f, " bucket {bucket}")?;
        }
        let rules: Vec<_> = self.rules.iter().map(|rule| rule.sql()).collect();
        write!(f, " breaks {}: {}", rules.join("; "), self.figures)
    }
}

/// One line, and one more for each violation.
impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Audit { name, skus, totals, violations, .. } = self;
        write!(f, "{name}: {skus} SKUs, {totals}: ")?;
        match violations.len() {
            0 => write!(f, "everything adds up"),
            1 => write!(f, "1 violation"),
            count => write!(f, "{count} violations"),
        }?;
        violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}
