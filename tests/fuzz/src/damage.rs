//! Bytes that were a message once.

use bolero::TypeGenerator;

/// What happens to bytes on their way: nothing, most often.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) struct Damage {
    kind: u8,
    at: u16,
    byte: u8,
    noise: Vec<u8>,
}

impl Damage {
    pub(crate) fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let at = usize::from(self.at) % (bytes.len() + 1);
        match self.kind % 16 {
            0 => bytes.clone_from(&self.noise),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, self.noise.iter().copied())),
            3 | 4 => {
                if let Some(old) = bytes.get_mut(at) {
                    *old = self.byte;
                }
            }
            _ => {}
        }
        bytes
    }
}
