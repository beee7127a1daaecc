//! What hooks are asked, and the way back.

use crate::guard::guard;
use crate::publication::value_of;
use klatch::Kind;
use klatch::hooks;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::sync::{Mutex, PoisonError};

/// A connection that asks to be let in.
#[pyclass(frozen, get_all, module = "klatch")]
pub struct ConnectRequest {
    /// The connection's id, as in its welcome.
    connection: String,
    /// The user that the client claims to be; empty if none.
    user: String,
    /// The client's token; empty if none.
    token: String,
    /// The client's address, as `host:port`.
    address: String,
}

impl From<hooks::ConnectRequest> for ConnectRequest {
    fn from(r: hooks::ConnectRequest) -> ConnectRequest {
        ConnectRequest {
            connection: r.connection,
            user: r.user,
            token: r.token,
            address: r.address.to_string(),
        }
    }
}

/// A connection that asks to join a room.
#[pyclass(frozen, get_all, module = "klatch")]
pub struct JoinRequest {
    /// The connection's id.
    connection: String,
    /// Its user; empty for an anonymous one.
    user: String,
    /// The room.
    room: String,
}

impl From<hooks::JoinRequest> for JoinRequest {
    fn from(r: hooks::JoinRequest) -> JoinRequest {
        JoinRequest { connection: r.connection, user: r.user, room: r.room }
    }
}

/// A message that a client publishes.
#[pyclass(frozen, module = "klatch")]
pub struct PublishRequest(hooks::PublishRequest);

impl From<hooks::PublishRequest> for PublishRequest {
    fn from(r: hooks::PublishRequest) -> PublishRequest {
        PublishRequest(r)
    }
}

#[pymethods]
impl PublishRequest {
    /// The connection's id.
    #[getter]
    fn connection(&self) -> &str {
        &self.0.connection
    }

    /// Its user; empty for an anonymous one.
    #[getter]
    fn user(&self) -> &str {
        &self.0.user
    }

    /// The room.
    #[getter]
    fn room(&self) -> &str {
        &self.0.room
    }

    /// The message id as the client gave it; empty if it gave none.
    #[getter]
    fn id(&self) -> &str {
        &self.0.id
    }

    /// Whether the data is bytes; else it is JSON.
    #[getter]
    fn is_bytes(&self) -> bool {
        self.0.kind == Kind::Binary
    }

    /// The data: what `json.loads` makes of the JSON, or bytes. Made anew each time.
    #[getter]
    fn data(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        guard(|| value_of(py, self.0.kind, &self.0.data))
    }

    /// The data as it was sent: UTF-8 JSON text, or bytes.
    #[getter]
    fn raw<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.data)
    }
}

/// The engine's answer object, whichever hook it is of.
pub enum Way {
    /// To a connect.
    Connect(hooks::ConnectAnswer),
    /// To a join.
    Join(hooks::JoinAnswer),
    /// To a publish.
    Publish(hooks::PublishAnswer),
}

/// The way back, used once. Dropped without an answer it says so.
#[pyclass(frozen, module = "klatch._klatch")]
pub struct Answer(Mutex<Option<Way>>);

impl Answer {
    /// From the engine's.
    pub fn new(way: Way) -> Answer {
        Answer(Mutex::new(Some(way)))
    }

    fn take(&self) -> Option<Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl Answer {
    /// Yes; for a connect, as this user.
    fn allow(&self, user: &str) -> PyResult<()> {
        guard(|| {
            match self.take() {
                Some(Way::Connect(answer)) => answer.allow(user),
                Some(Way::Join(answer)) => answer.allow(),
                Some(Way::Publish(answer)) => answer.allow(),
                None => {}
            }
            Ok(())
        })
    }

    /// No; the text goes to the client.
    fn deny(&self, message: &str) -> PyResult<()> {
        guard(|| {
            match self.take() {
                Some(Way::Connect(answer)) => answer.deny(message),
                Some(Way::Join(answer)) => answer.deny(message),
                Some(Way::Publish(answer)) => answer.deny(message),
                None => {}
            }
            Ok(())
        })
    }

    /// Yes, with other data: bytes, or JSON text.
    fn replace(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        guard(|| {
            if let Ok(bytes) = data.cast::<PyBytes>() {
                if let Some(Way::Publish(answer)) = self.take() {
                    answer.replace_bytes(bytes.as_bytes());
                }
                return Ok(());
            }
            let json = data.cast::<PyString>()?.to_cow()?;
            if let Some(Way::Publish(answer)) = self.take() {
                answer.replace_json(&json);
            }
            Ok(())
        })
    }

    /// None: the request fails as a fault of the host.
    fn drop(&self) {
        drop(self.take());
    }
}
