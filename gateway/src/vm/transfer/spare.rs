//! Buffers of pieces that the guest has, for those to come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ASKED, PART};

/// As many as are in use at once: asked for, waiting for that, and being filled.
const MOST: usize = ASKED + 2;

/// Those of one upload. Fresh ones would be asked of the kernel and cleared by it for each piece, which
/// costs more than to fill them.
#[derive(Clone, Debug, Default)]
pub(super) struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spare {
    /// One to be filled, with room for a part.
    pub(super) fn take(&self) -> Vec<u8> {
        self.lock().pop().unwrap_or_else(|| Vec::with_capacity(PART))
    }

    /// One whose content is not needed any more; unless somebody else still has it.
    pub(super) fn give(&self, bytes: Arc<Vec<u8>>) {
        let Ok(mut bytes) = Arc::try_unwrap(bytes) else { return };
        bytes.clear();
        let mut spare = self.lock();
        if spare.len() < MOST {
            spare.push(bytes);
        }
    }

    /// Nothing panics under this lock.
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
