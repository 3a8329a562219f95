//! "Did you mean …?"

/// A word at least this long is near to what it is the beginning of.
const BEGINNING_BYTES_MIN: usize = 4;

/// The candidate that `word` was most likely meant to be, if any is near enough.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let beginning = word.len() >= BEGINNING_BYTES_MIN;
    candidates
        .into_iter()
        .map(|candidate| {
            let known = candidate.to_lowercase();
            let distance = strsim::damerau_levenshtein(&lower, &known);
            (if beginning && known.starts_with(&lower) { distance.min(1) } else { distance }, candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_and_far() {
        let keys = ["listen", "data_dir", "retention_ms"];
        assert_eq!(nearest("liste", keys), Some("listen"));
        assert_eq!(nearest("datadir", keys), Some("data_dir"));
        assert_eq!(nearest("retention", keys), Some("retention_ms"));
        assert_eq!(nearest("LISTEN", keys), Some("listen"));
        assert_eq!(nearest("port", keys), None);
        assert_eq!(nearest("", keys), None);
    }
}
