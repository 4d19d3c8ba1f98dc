//! Digests of what is sent, against those that the sender names.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha512};

/// Digests that are made of a content as it comes, with what they are to be.
#[derive(Clone, Default)]
pub(crate) struct Digests(Vec<Digest>);

#[derive(Clone)]
struct Digest {
    hasher: Hasher,
    expected: Vec<u8>,
}

#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Digests {
    /// Adds one to be checked. False: there is no such algorithm here.
    pub(crate) fn expect(&mut self, algorithm: &str, expected: Vec<u8>) -> bool {
        let hasher = match algorithm {
            "sha-256" => Hasher::Sha256(Sha256::new()),
            "sha-512" => Hasher::Sha512(Box::new(Sha512::new())),
            _ => return false,
        };
        self.0.push(Digest { hasher, expected });
        true
    }

    /// Whether nothing is to be checked.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all that the other is to check is checked here.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let same =
            |a: &Digest, b: &Digest| a.hasher.name() == b.hasher.name() && a.expected == b.expected;
        other.0.iter().all(|named| self.0.iter().any(|own| same(own, named)))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for Digest { hasher, .. } in &mut self.0 {
            match hasher {
                Hasher::Sha256(hasher) => hasher.update(bytes),
                Hasher::Sha512(hasher) => hasher.update(bytes),
            }
        }
    }

    /// The name of one that is not what it is to be, if there is one.
    pub(super) fn mismatch(&self) -> Option<&'static str> {
        let differs = |digest: &&Digest| match digest.hasher.clone() {
            Hasher::Sha256(hasher) => hasher.finalize().as_slice() != digest.expected,
            Hasher::Sha512(hasher) => hasher.finalize().as_slice() != digest.expected,
        };
        self.0.iter().find(differs).map(|digest| digest.hasher.name())
    }
}

impl Hasher {
    const fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha-256",
            Self::Sha512(_) => "sha-512",
        }
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|digest| digest.hasher.name())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_what_its_sender_says_or_not() {
        let mut right = Digests::default();
        assert!(right.expect("sha-256", Sha256::digest(b"abcdef").to_vec()));
        assert!(right.expect("sha-512", Sha512::digest(b"abcdef").to_vec()));
        assert!(!right.expect("md5", vec![0; 16]));
        let mut wrong = Digests::default();
        assert!(wrong.expect("sha-256", Sha256::digest(b"abcdeg").to_vec()));
        assert!(right.covers(&Digests::default()) && !Digests::default().covers(&right));
        assert!(right.covers(&right.clone()) && !right.covers(&wrong));
        for digests in [&mut right, &mut wrong] {
            digests.update(b"abc");
            digests.update(b"def");
        }
        assert_eq!((right.mismatch(), wrong.mismatch()), (None, Some("sha-256")));
    }
}
