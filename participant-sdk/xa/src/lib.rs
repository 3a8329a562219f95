//! concord-xa
