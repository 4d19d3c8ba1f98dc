//! utmp(5): records of one size, one per terminal.

use std::mem::offset_of;

use super::Login;

const RECORD: usize = size_of::<libc::utmpx>();
const TYPE: usize = offset_of!(libc::utmpx, ut_type);
const USER: usize = offset_of!(libc::utmpx, ut_user);
const USER_LENGTH: usize = 32;
const TIME: usize = offset_of!(libc::utmpx, ut_tv);
/// Where 32-bit programs share the file, seconds and microseconds have 32 bits, else 64.
const TIME_IS_SHORT: bool = offset_of!(libc::utmpx, ut_addr_v6) - TIME == 8;

/// All logins of users, in the order of the file.
pub(super) fn parse(file: &[u8]) -> Vec<Login> {
    file.chunks_exact(RECORD).filter_map(record).collect()
}

fn record(record: &[u8]) -> Option<Login> {
    let kind = record.get(TYPE..)?.first_chunk().copied().map(i16::from_ne_bytes)?;
    if kind != libc::USER_PROCESS {
        return None;
    }
    let user = record.get(USER..USER + USER_LENGTH)?.split(|&byte| byte == 0).next()?;
    if user.is_empty() {
        return None;
    }
    let time = record.get(TIME..)?;
    let (seconds, microseconds) = if TIME_IS_SHORT {
        // The sign bit is as good as any other until 2106.
        let number = |at: usize| time.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
        (f64::from(number(0)?), f64::from(number(4)?))
    } else {
        let number = |at: usize| time.get(at..)?.first_chunk().copied().map(i64::from_ne_bytes);
        (double(number(0)?)?, double(number(8)?)?)
    };
    let user = String::from_utf8_lossy(user).into_owned();
    Some(Login { user, time: seconds + microseconds / 1e6 })
}

/// Exact up to the year 285 million; what is beyond or before 1970 is no time of a login.
fn double(number: i64) -> Option<f64> {
    let high = u32::try_from(number >> 21).ok()?;
    let low = u32::try_from(number & 0x1F_FFFF).ok()?;
    Some(f64::from(high) * f64::from(1 << 21) + f64::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    #[test]
    fn records_are_those_of_utmp_h() {
        assert_eq!(size_of_val(&[0_u8; USER_LENGTH]), offset_of!(libc::utmpx, ut_host) - USER);
        if cfg!(target_arch = "x86_64") {
            assert_eq!((RECORD, TYPE, USER, TIME, TIME_IS_SHORT), (384, 0, 44, 340, true));
        }
        assert_eq!(libc::USER_PROCESS, 7);
    }

    #[test]
    fn large_numbers_are_exact() {
        for number in [0, 1, 1_700_000_000, (1 << 53) - 1] {
            let text = format!("{number}");
            assert_eq!(double(number), text.parse().ok());
        }
        assert_eq!((double(-1), double(i64::MAX)), (None, None));
    }

    #[test]
    fn no_bytes_panic() {
        fuzz("utmp", |bytes| drop(parse(bytes)));
    }
}
