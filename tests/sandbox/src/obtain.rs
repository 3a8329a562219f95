//! The last two places of the search, the same for all products: the cache, and the distribution's packages.

use std::path::Path;

use crate::{Environment, Error, Product, Result, Source, Version, apt, cache};

/// A server program on disk that has been run once to learn its version.
pub(crate) trait Program {
    fn path(&self) -> &Path;
    fn version(&self) -> Version;
}

/// Finds and tries the program in an unpacked root directory. Its error says in a few words why it will not do.
pub(crate) type Open<'a, P> = &'a dyn Fn(&Path, Source) -> Result<P, String>;

/// What the cache holds of this product; what will not do is told in `rejected`.
pub(crate) fn cached<P>(
    env: &Environment,
    product: Product,
    source: Source,
    rejected: &mut Vec<String>,
    open: Open<'_, P>,
) -> Option<P> {
    let root = cache::find(env, product, rejected)?;
    match open(&root, source) {
        Ok(program) => Some(program),
        Err(reason) => {
            rejected.push(format!("{}: {reason}", root.display()));
            None
        }
    }
}

/// What the cache holds of this product, after a fetch if it is nothing.
pub(crate) fn cached_or_fetched<P: Program>(
    env: &Environment,
    product: Product,
    mut rejected: Vec<String>,
    open: Open<'_, P>,
) -> Result<P> {
    // Looked at without the lock: it is the common case, and entries appear whole.
    if let Some(found) = cached(env, product, Source::Cache, &mut rejected, open) {
        return Ok(found);
    }
    let _lock = cache::lock(env, product.id(), &format!("fetches {product}"))?;
    cache::discard_damaged(env, product);
    // While we waited for the lock, its holder may have fetched.
    let mut ignored = Vec::new();
    if let Some(found) = cached(env, product, Source::Cache, &mut ignored, open) {
        return Ok(found);
    }
    rejected.push("the cache has none".into());
    match apt::fetch(env, product, open) {
        Ok(()) => {}
        Err(reason) => {
            rejected.push(reason);
            return Err(no_server(product, rejected));
        }
    }
    cached(env, product, Source::Fetched, &mut rejected, open).ok_or_else(|| no_server(product, rejected))
}

pub(crate) fn no_server(product: Product, tried: Vec<String>) -> Error {
    Error::NoServer { product, tried: tried.join("; ") }
}
