//! Attribute values of ops and their text form.

use crate::types::Type;

/// An attribute value as it stands in the text form, before an op gives it a type.
#[derive(Clone, Debug, PartialEq)]
pub enum AttrText {
    /// A bare word or number: `true`, `3`, `-1.5e-6`, `silu`.
    Word(String),
    /// A quoted string, unescaped.
    Str(String),
    /// A tensor type.
    Type(Type),
    /// `[a, b, …]`
    List(Vec<AttrText>),
}

/// A Rust type that can be an op's attribute. `parse(print(x)) == x` for every value.
pub trait Attr: Sized {
    /// The text form.
    fn print(&self) -> String;
    /// Reads the text form back; the error says what was expected.
    fn parse(text: &AttrText) -> Result<Self, String>;
}

fn word(text: &AttrText) -> Result<&str, String> {
    match text {
        AttrText::Word(w) => Ok(w),
        other => Err(format!("expected a single word, found {other:?}")),
    }
}

macro_rules! plain_attr {
    ($($ty:ty => $what:literal),*) => {$(
        impl Attr for $ty {
            fn print(&self) -> String {
                self.to_string()
            }
            fn parse(text: &AttrText) -> Result<Self, String> {
                let w = word(text)?;
                w.parse().map_err(|_| format!("expected {}, found `{w}`", $what))
            }
        }
    )*};
}

plain_attr!(usize => "an unsigned integer", u32 => "an unsigned integer", bool => "true or false");

impl Attr for f32 {
    fn print(&self) -> String {
        // `{:?}` is the shortest decimal that reads back as the same value.
        format!("{self:?}")
    }
    fn parse(text: &AttrText) -> Result<Self, String> {
        let w = word(text)?;
        w.parse()
            .map_err(|_| format!("expected a number, found `{w}`"))
    }
}

impl Attr for String {
    fn print(&self) -> String {
        let mut out = String::from("\"");
        for c in self.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
        out
    }
    fn parse(text: &AttrText) -> Result<Self, String> {
        match text {
            AttrText::Str(s) => Ok(s.clone()),
            other => Err(format!("expected a quoted string, found {other:?}")),
        }
    }
}

impl Attr for Type {
    fn print(&self) -> String {
        self.to_string()
    }
    fn parse(text: &AttrText) -> Result<Self, String> {
        match text {
            AttrText::Type(t) => Ok(t.clone()),
            other => Err(format!("expected a type, found {other:?}")),
        }
    }
}

impl<A: Attr> Attr for Vec<A> {
    fn print(&self) -> String {
        let items: Vec<_> = self.iter().map(Attr::print).collect();
        format!("[{}]", items.join(","))
    }
    fn parse(text: &AttrText) -> Result<Self, String> {
        match text {
            AttrText::List(items) => items.iter().map(A::parse).collect(),
            other => Err(format!("expected a list, found {other:?}")),
        }
    }
}

/// Declares an enum whose variants are single words in the text form.
#[macro_export]
macro_rules! word_attr {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant),* }

        impl $name {
            /// Every variant, for tables and tests.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// The word in the text form.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s {
                    $($word => Ok($name::$variant),)*
                    other => Err(format!("expected one of {}, found `{other}`", [$($word),*].join(", "))),
                }
            }
        }

        impl $crate::attr::Attr for $name {
            fn print(&self) -> String { self.name().to_string() }
            fn parse(text: &$crate::attr::AttrText) -> Result<Self, String> {
                match text {
                    $crate::attr::AttrText::Word(w) => w.parse(),
                    other => Err(format!("expected a single word, found {other:?}")),
                }
            }
        }
    };
}
