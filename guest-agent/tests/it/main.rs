//! The agent as its clients see it: the real binary, over a real socket, on a real kernel.

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod bed;
#[cfg(test)]
mod blocked;
#[cfg(test)]
mod cell;
#[cfg(test)]
mod changes;
#[cfg(test)]
mod channels;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod disks;
#[cfg(test)]
mod dispatcher;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod file_beneath;
#[cfg(test)]
mod file_names;
#[cfg(test)]
mod file_policy;
#[cfg(test)]
mod files;
#[cfg(test)]
mod flat;
#[cfg(test)]
mod freeze;
#[cfg(test)]
mod hook;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod lease;
#[cfg(test)]
mod mounts;
#[cfg(test)]
mod namespace;
#[cfg(test)]
mod options;
#[cfg(test)]
mod played;
#[cfg(test)]
mod process;
#[cfg(test)]
mod programs;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod stuck;
#[cfg(test)]
mod upload_ends;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod wire;
