//! Command line values that hold a password: a message about one never repeats it.

use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

/// The parser of a value that holds a password.
pub struct Secret<T>(PhantomData<fn() -> T>);

/// A parser whose errors say what is wrong with the value without showing it.
pub fn secret<T>() -> Secret<T> {
    Secret(PhantomData)
}

impl<T> Clone for Secret<T> {
    fn clone(&self) -> Self {
        secret()
    }
}

impl<T> TypedValueParser for Secret<T>
where
    T: FromStr<Err: fmt::Display> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let parsed = match value.to_str() {
            Some(text) => text.parse().map_err(|error: T::Err| error.to_string()),
            None => Err("not UTF-8".to_owned()),
        };
        parsed.map_err(|why| {
            let arg = arg.map(Arg::to_string).unwrap_or_default();
            let message = format!("invalid value for '{arg}': {why}\n");
            let mut error = clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command);
            error.insert(ContextKind::Custom, ContextValue::String(why));
            error
        })
    }
}
