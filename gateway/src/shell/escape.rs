//! What the user types, and the one thing in it that is not for the program: `Enter ~ .`, to detach.

/// Where in a line the user is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// At the beginning, where a tilde counts.
    #[default]
    Start,
    /// Behind such a tilde, which is held back.
    Tilde,
    Within,
}

/// Looks for the escape in what is typed.
#[derive(Debug, Default)]
pub(super) struct Escape(Place);

impl Escape {
    /// What is for the program, and whether the user wants to go behind that.
    pub(super) fn typed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            self.0 = match (self.0, byte) {
                (Place::Start, b'~') => {
                    self.0 = Place::Tilde;
                    continue;
                }
                (Place::Tilde, b'.') => return (out, true),
                // Two of them are one.
                (Place::Tilde, b'~') => Place::Within,
                (before, byte) => {
                    if before == Place::Tilde {
                        out.push(b'~');
                    }
                    if matches!(byte, b'\r' | b'\n') { Place::Start } else { Place::Within }
                }
            };
            out.push(byte);
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_enter_tilde_dot_is_kept_from_the_program() {
        for (typed, program, gone) in [
            ("~.", "", true),
            ("ls\r~.rest", "ls\r", true),
            ("ls ~.", "ls ~.", false),
            ("\r~~.", "\r~.", false),
            ("\r~a\r", "\r~a\r", false),
            ("\n~\r~.", "\n~\r", true),
            ("cd ~\r", "cd ~\r", false),
        ] {
            let mut whole = Escape::default();
            assert_eq!(
                whole.typed(typed.as_bytes()),
                (program.as_bytes().to_vec(), gone),
                "{typed:?}"
            );
            // Byte by byte is the same.
            let mut single = Escape::default();
            let mut out = Vec::new();
            let ended = typed.bytes().any(|byte| {
                let (some, end) = single.typed(&[byte]);
                out.extend(some);
                end
            });
            assert_eq!((out, ended), (program.as_bytes().to_vec(), gone), "{typed:?}");
        }
    }
}
