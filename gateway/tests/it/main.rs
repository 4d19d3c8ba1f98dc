//! The gateway as a whole: real listeners in front, agents on real sockets behind.

#[cfg(test)]
mod api;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod fake_qmp;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod process;
#[cfg(test)]
mod released;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod state_files;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod vm;
