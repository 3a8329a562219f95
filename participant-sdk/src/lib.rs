//! concord-participant
