//! Users and access lists (Windows). Descriptors are read and written as text, which `sddl.rs` judges.
#![allow(unsafe_code, reason = "the security interface is one of C")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::ffi::OsStrExt as _;
use std::os::windows::io::{AsRawHandle, FromRawHandle as _, OwnedHandle};
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{
    ERROR_SUCCESS, GENERIC_READ, GENERIC_WRITE, INVALID_HANDLE_VALUE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, ConvertSidToStringSidW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GetTokenInformation, OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID,
    SECURITY_ATTRIBUTES, TOKEN_ELEVATION, TOKEN_INFORMATION_CLASS, TOKEN_QUERY, TOKEN_USER, TokenElevation,
    TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_FLAG_OPEN_REPARSE_POINT,
    FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use crate::sddl;

/// Memory that the system has allocated, and that is freed with this.
struct Local(*mut c_void);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from a function whose result is to be freed in this way, and is not used any more.
        unsafe { LocalFree(self.0) };
    }
}

/// Whether this process has the rights of an administrator, or is a service of the system.
pub(crate) fn is_elevated() -> bool {
    let bytes = token_information(TokenElevation, size_of::<TOKEN_ELEVATION>());
    bytes.is_ok_and(|words| words.first().is_some_and(|word| word & 0xffff_ffff != 0))
}

/// The SID of this process's user.
pub(crate) fn own_sid() -> io::Result<String> {
    let words = token_information(TokenUser, 256)?;
    // SAFETY: the system has filled the words with this structure; its pointer leads into them.
    let sid: PSID = unsafe { (*words.as_ptr().cast::<TOKEN_USER>()).User.Sid };
    let mut text = null_mut();
    // SAFETY: the SID is valid while `words` lives.
    if unsafe { ConvertSidToStringSidW(sid, &raw mut text) } == 0 {
        return Err(io::Error::last_os_error());
    }
    let _owned = Local(text.cast());
    // SAFETY: the system has written a text that ends with a zero.
    Ok(unsafe { read_text(text) })
}

/// The names of this process's user in the text of a descriptor: the SID, and the alias if there is one.
fn own_names() -> io::Result<Vec<String>> {
    let sid = own_sid()?;
    // The system writes the alias where it knows one.
    let descriptor = Descriptor::parse(&format!("O:{sid}"))?;
    let alias = descriptor.text()?.trim_start_matches("O:").to_owned();
    Ok(vec![sid, alias])
}

/// A user or group with access to an open file or directory, other than this user, the system and the administrators.
///
/// # Errors
/// When the descriptor cannot be read.
pub(crate) fn stranger(file: &File) -> io::Result<Option<String>> {
    let mut descriptor: PSECURITY_DESCRIPTOR = null_mut();
    let wanted = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    // SAFETY: the handle is open, and only the last result is asked for.
    let result = unsafe {
        let handle = file.as_raw_handle();
        GetSecurityInfo(
            handle,
            SE_FILE_OBJECT,
            wanted,
            null_mut(),
            null_mut(),
            null_mut(),
            null_mut(),
            &raw mut descriptor,
        )
    };
    if result != ERROR_SUCCESS {
        return Err(io::Error::from_raw_os_error(result.cast_signed()));
    }
    let text = Descriptor(Local(descriptor)).text()?;
    Ok(sddl::stranger(&text, &own_names()?))
}

/// Creates a directory to which only this user, the system and the administrators have access, and so its future files; one
/// of an administrator also laneway's service.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    let descriptor = private("OICI")?;
    let attributes = descriptor.attributes();
    let path = wide(path);
    // SAFETY: the path ends with a zero, and the attributes and their descriptor live until the call returns.
    match unsafe { CreateDirectoryW(path.as_ptr(), &raw const attributes) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Creates a file to which only this user, the system and the administrators have access.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    let descriptor = private("")?;
    let attributes = descriptor.attributes();
    let path = wide(path);
    let flags = FILE_ATTRIBUTE_NORMAL | FILE_FLAG_OPEN_REPARSE_POINT;
    // SAFETY: as in `create_directory`.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            GENERIC_READ | GENERIC_WRITE,
            // Other processes of this user may open it meanwhile, like any existing file: to find it locked, say.
            FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
            &raw const attributes,
            CREATE_NEW,
            flags,
            null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is new and belongs to nobody else.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) }.into())
}

/// A security descriptor.
struct Descriptor(Local);

impl Descriptor {
    fn parse(text: &str) -> io::Result<Self> {
        let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
        let mut descriptor: PSECURITY_DESCRIPTOR = null_mut();
        // SAFETY: the text ends with a zero.
        let parsed = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                null_mut(),
            )
        };
        if parsed == 0 { Err(io::Error::last_os_error()) } else { Ok(Self(Local(descriptor))) }
    }

    /// Its owner and access list as text.
    fn text(&self) -> io::Result<String> {
        let wanted = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
        let mut text = null_mut();
        // SAFETY: the descriptor is valid.
        let written = unsafe {
            ConvertSecurityDescriptorToStringSecurityDescriptorW(
                self.0.0,
                SDDL_REVISION_1,
                wanted,
                &raw mut text,
                null_mut(),
            )
        };
        if written == 0 {
            return Err(io::Error::last_os_error());
        }
        let _owned = Local(text.cast());
        // SAFETY: the system has written a text that ends with a zero.
        Ok(unsafe { read_text(text) })
    }

    /// The attributes for something new. They must not outlive this.
    fn attributes(&self) -> SECURITY_ATTRIBUTES {
        let length = u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default();
        SECURITY_ATTRIBUTES { nLength: length, lpSecurityDescriptor: self.0.0, bInheritHandle: 0 }
    }
}

/// Full access for the system, the administrators and this user, and nothing inherited from above. What an administrator
/// makes is the machine's: laneway's service works with it.
fn private(inheritance: &str) -> io::Result<Descriptor> {
    let own = own_sid()?;
    let mut users = vec!["SY", "BA", &own];
    if is_elevated() {
        users.push(sddl::SERVICE);
    }
    let entries: Vec<_> = users.into_iter().map(|who| format!("(A;{inheritance};FA;;;{who})")).collect();
    Descriptor::parse(&format!("D:P{}", entries.concat()))
}

/// Information about the token of this process, as words of eight bytes.
fn token_information(what: TOKEN_INFORMATION_CLASS, size: usize) -> io::Result<Vec<u64>> {
    let mut token = null_mut();
    // SAFETY: the handle of this process needs no closing.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is new and belongs to nobody else.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let mut words = vec![0_u64; size.div_ceil(8)];
    let size = u32::try_from(size_of_val(words.as_slice())).map_err(io::Error::other)?;
    let mut written = 0;
    // SAFETY: the words have as many writable bytes as `size` says.
    let filled = unsafe {
        let to = words.as_mut_ptr().cast();
        GetTokenInformation(token.as_raw_handle(), what, to, size, &raw mut written)
    };
    if filled == 0 { Err(io::Error::last_os_error()) } else { Ok(words) }
}

/// A path that ends with a zero.
fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}

/// # Safety
/// The text ends with a zero.
unsafe fn read_text(text: *const u16) -> String {
    let mut length = 0;
    // SAFETY: nothing behind the zero is read.
    while unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: that many numbers have just been read.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, length) })
}
