//! Why a configuration was refused.

use std::borrow::Cow;
use std::fmt;

use super::load::Origin;

/// Everything that is wrong with a configuration, one line for each problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.origin.line());
        ConfigError { problems }
    }

    /// One sentence for each problem, each beginning with where it is.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(Problem::to_string)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) origin: Origin,
    pub(super) what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => f.write_str(&self.what),
            origin => write!(f, "{origin}: {}", self.what),
        }
    }
}

/// Characters of a value that an error repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// A user's text as it may stand in an error: on one line, not endless, and without a user and a password, should it be a URL
/// with them.
pub(super) fn quoted(text: &str) -> String {
    let text = &without_user(text);
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{start:?}…")
}

/// Whatever stands before the host of a URL. A password may have any character in it, so that the last `@` counts.
fn without_user(text: &str) -> Cow<'_, str> {
    let Some((user, place)) = text.rsplit_once('@') else { return Cow::Borrowed(text) };
    match user.split_once("://") {
        Some((scheme, _)) => Cow::Owned(format!("{scheme}://***@{place}")),
        None => Cow::Owned(format!("***@{place}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_quoted() {
        for (text, shown) in [
            ("http://collector:4317", "http://collector:4317"),
            ("http://ann:s3cret@collector:4317", "http://***@collector:4317"),
            ("http://ann:s3/cr@et@collector:4317/a", "http://***@collector:4317/a"),
            ("ann:s3cret@collector:4317", "***@collector:4317"),
        ] {
            assert_eq!(quoted(text), format!("{shown:?}"));
        }
    }
}
