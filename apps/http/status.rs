//! Status codes (RFC 9110 section 15) that this server uses.

/// A status code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Status {
    /// The answer carries what was asked for.
    Ok = 200,
    /// The upload made a new file.
    Created = 201,
    /// The upload replaced a file.
    NoContent = 204,
    /// One or more ranges of the file.
    PartialContent = 206,
    /// A directory was asked for without its trailing slash.
    MovedPermanently = 301,
    /// The client's copy is current.
    NotModified = 304,
    /// The request cannot be understood.
    BadRequest = 400,
    /// The file exists but is not for the client.
    Forbidden = 403,
    /// No such file.
    NotFound = 404,
    /// The method does nothing here; `Allow` says which do.
    MethodNotAllowed = 405,
    /// The request did not come in time.
    RequestTimeout = 408,
    /// The upload's folder does not exist, or its name is taken by something that is no file.
    Conflict = 409,
    /// `If-Match` or its kin failed.
    PreconditionFailed = 412,
    /// The body is larger than allowed.
    ContentTooLarge = 413,
    /// The request line is too long.
    UriTooLong = 414,
    /// No byte of the file lies in the ranges asked for.
    RangeNotSatisfiable = 416,
    /// `Expect` asks for something else than `100-continue`.
    ExpectationFailed = 417,
    /// The head is too large, or has too many fields.
    FieldsTooLarge = 431,
    /// The file cannot be read or written.
    InternalError = 500,
    /// Unknown method or transfer coding.
    NotImplemented = 501,
    /// As many files are open as may be; `Retry-After` says when to ask again.
    ServiceUnavailable = 503,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    VersionNotSupported = 505,
    /// The disk is full.
    InsufficientStorage = 507,
}

impl Status {
    /// The number.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reason phrase.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Created => "Created",
            Self::NoContent => "No Content",
            Self::PartialContent => "Partial Content",
            Self::MovedPermanently => "Moved Permanently",
            Self::NotModified => "Not Modified",
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::RequestTimeout => "Request Timeout",
            Self::Conflict => "Conflict",
            Self::PreconditionFailed => "Precondition Failed",
            Self::ContentTooLarge => "Content Too Large",
            Self::UriTooLong => "URI Too Long",
            Self::RangeNotSatisfiable => "Range Not Satisfiable",
            Self::ExpectationFailed => "Expectation Failed",
            Self::FieldsTooLarge => "Request Header Fields Too Large",
            Self::InternalError => "Internal Server Error",
            Self::NotImplemented => "Not Implemented",
            Self::ServiceUnavailable => "Service Unavailable",
            Self::VersionNotSupported => "HTTP Version Not Supported",
            Self::InsufficientStorage => "Insufficient Storage",
        }
    }

    /// Whether such an answer has no body, and so no `Content-Length` either (RFC 9110 8.6, 15.4.5).
    pub(super) const fn is_bodiless(self) -> bool {
        matches!(self, Self::NoContent | Self::NotModified)
    }
}
