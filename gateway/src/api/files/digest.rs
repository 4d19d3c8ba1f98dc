//! `Repr-Digest`: what a sender says that its content is (RFC 9530).

use axum::http::{HeaderMap, HeaderName};
use base64_simd::STANDARD;

use crate::api::error::Problem;
use crate::vm::transfer::Digests;

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The digests to be checked. A header of which nothing could be checked is refused: it must not
/// look as if it had been.
pub(super) fn digests(headers: &HeaderMap) -> Result<Digests, Problem> {
    let mut digests = Digests::default();
    if !headers.contains_key(REPR_DIGEST) {
        return Ok(digests);
    }
    let values = headers.get_all(REPR_DIGEST).into_iter().filter_map(|value| value.to_str().ok());
    for entry in values.flat_map(|value| value.split(',')) {
        let Some((algorithm, value)) = entry.trim().split_once('=') else { continue };
        let text = value.trim().strip_prefix(':').and_then(|text| text.strip_suffix(':'));
        let bytes = text.and_then(|text| STANDARD.decode_to_vec(text).ok());
        let length = match algorithm.trim() {
            "sha-256" => 32,
            "sha-512" => 64,
            _ => continue,
        };
        match bytes.filter(|bytes| bytes.len() == length) {
            Some(bytes) => drop(digests.expect(algorithm.trim(), bytes)),
            None => return Err(unusable()),
        }
    }
    if digests.is_empty() { Err(unusable()) } else { Ok(digests) }
}

fn unusable() -> Problem {
    Problem::bad_request(
        "Header Repr-Digest must name sha-256 or sha-512 with the digest in base64 between \
         colons, such as sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_as_a_digest_is_checked_or_refused() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/repr-digest");
        qga_testing::fuzz(corpus.as_ref(), 4000, |bytes| {
            let Ok(value) = axum::http::HeaderValue::from_bytes(bytes) else { return 0u64 };
            match digests(&HeaderMap::from_iter([(REPR_DIGEST, value)])) {
                Ok(digests) => {
                    assert!(!digests.is_empty(), "not checked: {bytes:?}");
                    1
                }
                Err(_) => 2,
            }
        });
    }

    #[test]
    fn a_digest_that_cannot_be_checked_is_refused() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REPR_DIGEST, value.parse().unwrap());
            digests(&headers)
        };
        let sha256 = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        assert!(!of(sha256).unwrap().is_empty());
        assert!(!of(&format!("md5=:AAAA:, {sha256}")).unwrap().is_empty());
        for wrong in ["", "md5=:AAAA:", "sha-256=:AAAA:", "sha-256=47DE", "sha-256", "sha-256=:?:"]
        {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert!(digests(&HeaderMap::new()).unwrap().is_empty());
    }
}
