//! Real VMs, driven over the bare agent socket and through REST.

#[cfg(test)]
mod guests;
#[cfg(test)]
mod raw;
