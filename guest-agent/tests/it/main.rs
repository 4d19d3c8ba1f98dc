//! The agent as its clients see it: the real binary, over a real socket, on a real kernel.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod cell;
#[cfg(test)]
mod channels;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod files;
#[cfg(test)]
mod freeze;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod options;
#[cfg(test)]
mod process;
#[cfg(test)]
mod stuck;
#[cfg(test)]
mod wire;
