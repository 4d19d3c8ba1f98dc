//! The QEMU guest agent protocol (QGA), without I/O.
