//! Real VMs for tests and benches.
