//! `strftime` for chat templates, which write today's date into the system prompt.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// A moment, in UTC and the Gregorian calendar.
struct Moment {
    year: i64,
    /// 0 to 11.
    month: usize,
    /// 1 to 31.
    day: i64,
    /// 1 to 366.
    day_of_year: i64,
    /// 0 is Sunday.
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

/// Formats the moment `now`, in UTC, by the conversions of C that templates use. English names.
///
/// # Errors
/// A conversion that is not supported, named in the text.
pub(crate) fn strftime(format: &str, now: SystemTime) -> Result<String, String> {
    let seconds = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).map_err(|_| "the clock is absurd")?,
        Err(_) => return Err("the clock is before 1970".to_owned()),
    };
    let moment = Moment::of_unix(seconds);
    let (mut out, mut chars) = (String::new(), format.chars());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut conversion, mut unpadded) = (chars.next(), false);
        if conversion == Some('-') {
            (conversion, unpadded) = (chars.next(), true);
        }
        let field = conversion.and_then(|conversion| moment.field(conversion));
        let field = field.ok_or_else(|| format!("unknown conversion in {format:?}"))?;
        let stripped = field.trim_start_matches(['0', ' ']);
        out.push_str(match (unpadded, stripped) {
            (false, _) => &field,
            (true, "") => "0",
            (true, stripped) => stripped,
        });
    }
    Ok(out)
}

impl Moment {
    fn of_unix(seconds: i64) -> Moment {
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (mut year, mut day_of_year) = (1970, days);
        // Whole cycles of 400 years at once, so that a clock far ahead takes no time.
        year += day_of_year / 146_097 * 400;
        day_of_year %= 146_097;
        while day_of_year >= days_in_year(year) {
            day_of_year -= days_in_year(year);
            year += 1;
        }
        let (mut month, mut day) = (0, day_of_year);
        while day >= days_in_month(year, month) {
            day -= days_in_month(year, month);
            month += 1;
        }
        Moment {
            year,
            month,
            day: day + 1,
            day_of_year: day_of_year + 1,
            // 1 January 1970 was a Thursday.
            weekday: (days + 4).rem_euclid(7) as usize,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// The text of one conversion.
    fn field(&self, conversion: char) -> Option<String> {
        let (month, weekday) = (MONTHS[self.month], WEEKDAYS[self.weekday]);
        let twelve_hour = (self.hour + 11) % 12 + 1;
        Some(match conversion {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month + 1),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{twelve_hour:02}"),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month + 1, self.day),
            'T' => format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            _ => return None,
        })
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_year(year: i64) -> i64 {
    365 + i64::from(is_leap(year))
}

fn days_in_month(year: i64, month: usize) -> i64 {
    match month {
        1 => 28 + i64::from(is_leap(year)),
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, format: &str) -> String {
        strftime(format, UNIX_EPOCH + Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn known_moments() {
        assert_eq!(
            at(0, "%A %Y-%m-%d %H:%M:%S"),
            "Thursday 1970-01-01 00:00:00"
        );
        assert_eq!(at(1_709_210_096, "%d %b %Y %T"), "29 Feb 2024 12:34:56");
        assert_eq!(at(951_868_799, "%F %T"), "2000-02-29 23:59:59");
        assert_eq!(at(951_868_800, "%F %j"), "2000-03-01 061");
        assert_eq!(at(4_107_542_400, "%F %a"), "2100-03-01 Mon");
        assert_eq!(at(1_735_689_599, "%j %y %I %p"), "366 24 11 PM");
    }

    #[test]
    fn padding_can_be_left_out() {
        assert_eq!(at(1_709_210_096 + 86_400, "%-d %B %-m %e"), "1 March 3  1");
        assert_eq!(at(0, "%-H %I %-I %% %Z %z"), "0 12 12 % UTC +0000");
    }

    #[test]
    fn unknown_conversions_are_errors() {
        for format in ["%Q", "%", "%-", "%é"] {
            assert!(strftime(format, UNIX_EPOCH).is_err(), "{format}");
        }
        let early = UNIX_EPOCH - Duration::from_secs(1);
        assert!(strftime("%Y", early).is_err());
    }

    #[test]
    fn a_clock_far_ahead_is_no_trouble() {
        assert!(at(1 << 60, "%Y").len() > 4);
    }
}
