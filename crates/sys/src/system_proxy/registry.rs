//! The Internet Settings of Windows.
#![allow(unsafe_code, reason = "the registry and the notification are functions of C")]

use std::io;
use std::net::SocketAddr;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_MORE_DATA, ERROR_SUCCESS};
use windows_sys::Win32::Networking::WinInet::{
    INTERNET_OPTION_REFRESH, INTERNET_OPTION_SETTINGS_CHANGED, InternetSetOptionW,
};
use windows_sys::Win32::System::Registry::{
    HKEY_CURRENT_USER, REG_DWORD, REG_SZ, RRF_RT_REG_DWORD, RRF_RT_REG_SZ, RegDeleteKeyValueW, RegGetValueW,
    RegSetKeyValueW,
};

use super::setting::{ProxyError, Setting};

/// The key of the user's settings.
const KEY: &str = r"Software\Microsoft\Windows\CurrentVersion\Internet Settings";
/// The only number. The other values are text.
const ENABLE: &str = "ProxyEnable";
const SERVER: &str = "ProxyServer";
const OVERRIDE: &str = "ProxyOverride";
const SCRIPT: &str = "AutoConfigURL";
/// The largest value that is read, in bytes.
const MAX_VALUE: u32 = 1 << 20;

/// What to do when the settings cannot be changed.
pub(super) const REFUSED: &str = "run it in a terminal of the user who is logged in";

pub(super) fn name_of(_: &str) -> &'static str {
    "Windows Internet Settings"
}

pub(super) fn current() -> Result<Vec<Setting>, ProxyError> {
    [ENABLE, SERVER, OVERRIDE, SCRIPT]
        .map(|name| {
            let value = if name == ENABLE { number(name) } else { text(name) };
            let value = value.map_err(|error| refused("read", name, &error))?;
            Ok(Setting { store: KEY.into(), key: name.into(), value })
        })
        .into_iter()
        .collect()
}

pub(super) fn through(proxy: SocketAddr, current: &[Setting]) -> Vec<Setting> {
    let wanted = |one: &Setting| {
        let value = match &*one.key {
            ENABLE => Some("1".into()),
            SERVER => Some(proxy.to_string()),
            OVERRIDE => Some("localhost;127.*;[::1];<local>".into()),
            // A script would take precedence over the server.
            _ => None,
        };
        Setting { value, ..one.clone() }
    };
    current.iter().map(wanted).collect()
}

pub(super) fn apply(settings: &[Setting]) -> Result<(), ProxyError> {
    for Setting { key, value, .. } in settings {
        let set = match value {
            None => delete(key),
            Some(value) if key == ENABLE => set_number(key, value.parse().unwrap_or_default()),
            Some(value) => set_text(key, value),
        };
        set.map_err(|error| refused("set", key, &error))?;
    }
    for option in [INTERNET_OPTION_SETTINGS_CHANGED, INTERNET_OPTION_REFRESH] {
        // SAFETY: these options have no value, and mean all of the user's programs.
        let told = unsafe { InternetSetOptionW(null(), option, null(), 0) };
        if told == 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "running programs keep their settings until they start again");
        }
    }
    Ok(())
}

fn refused(action: &str, name: &str, error: &io::Error) -> ProxyError {
    ProxyError::Refused {
        what: format!("the Internet Setting {name} cannot be {action}"),
        why: error.to_string(),
    }
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

fn result(code: u32) -> io::Result<()> {
    match code {
        ERROR_SUCCESS => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.cast_signed())),
    }
}

/// A number in decimal digits.
fn number(name: &str) -> io::Result<Option<String>> {
    let (mut value, mut size) = (0_u32, 4);
    // SAFETY: the names end with a zero, and the value has as many bytes as `size` says.
    let code = unsafe {
        RegGetValueW(
            HKEY_CURRENT_USER,
            wide(KEY).as_ptr(),
            wide(name).as_ptr(),
            RRF_RT_REG_DWORD,
            null_mut(),
            (&raw mut value).cast(),
            &raw mut size,
        )
    };
    match code {
        ERROR_FILE_NOT_FOUND => Ok(None),
        code => result(code).map(|()| Some(value.to_string())),
    }
}

fn text(name: &str) -> io::Result<Option<String>> {
    let mut size = 1024_u32;
    loop {
        let mut value = vec![0_u16; usize::try_from(size.div_ceil(2)).map_err(io::Error::other)?];
        // SAFETY: as in `number`.
        let code = unsafe {
            RegGetValueW(
                HKEY_CURRENT_USER,
                wide(KEY).as_ptr(),
                wide(name).as_ptr(),
                RRF_RT_REG_SZ,
                null_mut(),
                value.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        match code {
            ERROR_FILE_NOT_FOUND => return Ok(None),
            ERROR_MORE_DATA if size <= MAX_VALUE => {}
            code => {
                result(code)?;
                let end = value.iter().position(|unit| *unit == 0).unwrap_or(value.len());
                return Ok(Some(String::from_utf16_lossy(&value[..end])));
            }
        }
    }
}

fn set_number(name: &str, value: u32) -> io::Result<()> {
    set(name, REG_DWORD, &value.to_ne_bytes())
}

fn set_text(name: &str, value: &str) -> io::Result<()> {
    let bytes: Vec<u8> = wide(value).into_iter().flat_map(u16::to_ne_bytes).collect();
    set(name, REG_SZ, &bytes)
}

fn set(name: &str, kind: u32, bytes: &[u8]) -> io::Result<()> {
    let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the names end with a zero, and the value has as many bytes as `size` says.
    result(unsafe {
        RegSetKeyValueW(
            HKEY_CURRENT_USER,
            wide(KEY).as_ptr(),
            wide(name).as_ptr(),
            kind,
            bytes.as_ptr().cast(),
            size,
        )
    })
}

fn delete(name: &str) -> io::Result<()> {
    // SAFETY: the names end with a zero.
    match unsafe { RegDeleteKeyValueW(HKEY_CURRENT_USER, wide(KEY).as_ptr(), wide(name).as_ptr()) } {
        ERROR_FILE_NOT_FOUND => Ok(()),
        code => result(code),
    }
}
