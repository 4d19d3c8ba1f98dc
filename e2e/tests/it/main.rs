//! Real VMs, driven over the bare agent socket and through REST.
//!
//! Each test boots one guest and runs a topic in it, once with our agent and once with Debian's.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod families;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod files_here;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod guests;
#[cfg(test)]
mod guides;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod kinds;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod rest_busy;
#[cfg(test)]
mod rest_files;
#[cfg(test)]
mod rest_freeze;
#[cfg(test)]
mod rest_large;
#[cfg(test)]
mod rest_power;
#[cfg(test)]
mod rest_programs;
#[cfg(test)]
mod rest_qmp;
#[cfg(test)]
mod rest_restart;
#[cfg(test)]
mod rest_streams;
#[cfg(test)]
mod scenario;
#[cfg(test)]
mod side_by_side;
#[cfg(test)]
mod snapshot;
#[cfg(test)]
mod snippets;
#[cfg(test)]
mod suspend;
#[cfg(test)]
mod tap;
#[cfg(test)]
mod transcript;
#[cfg(test)]
mod vm_faults;
