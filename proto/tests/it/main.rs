//! The protocol as a whole: frozen bytes, a real agent's transcripts, both ends against each
//! other, and hostile input.

#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod pair;
#[cfg(test)]
mod server;
#[cfg(test)]
mod thaw;
#[cfg(test)]
mod transcripts;
#[cfg(test)]
mod wire;
#[cfg(test)]
mod wire_programs;
