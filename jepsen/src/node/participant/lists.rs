//! Lists that grow: one XA branch appends to them and reads them, in the order asked for.

use concord_participant::{Builder, HandlerError, Json, Reply, XaBranch};
use serde::{Deserialize, Serialize};

/// One of the things that a branch is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// Put a value at the end of a list.
    Append(i64, i64),
    /// Read a list.
    Read(i64),
}

/// What was read, in the order of the reads.
pub type AppendReply = Vec<Vec<i64>>;

pub(super) fn register(builder: Builder) -> Builder {
    builder.xa("lists", lists)
}

async fn lists(mut branch: XaBranch, Json(deeds): Json<Vec<Deed>>) -> Result<Reply, HandlerError> {
    let mut reads = AppendReply::new();
    for deed in deeds {
        match deed {
            Deed::Append(list, value) => {
                let sql = "INSERT INTO list (id, elements) VALUES (?, ?) \
                           ON DUPLICATE KEY UPDATE elements = CONCAT_WS(',', NULLIF(elements, ''), VALUES(elements))";
                branch.exec(sql, (list, value.to_string())).await?;
            }
            Deed::Read(list) => {
                let found: Option<(String,)> =
                    branch.query_first("SELECT elements FROM list WHERE id = ?", (list,)).await?;
                reads.push(found.map_or(Ok(Vec::new()), |(elements,)| elements_of(&elements))?);
            }
        }
    }
    Reply::json(&reads)
}

/// The elements of a list as it is stored: `3,17,4`.
pub fn elements_of(text: &str) -> Result<Vec<i64>, std::num::ParseIntError> {
    text.split(',').filter(|element| !element.is_empty()).map(str::parse).collect()
}
