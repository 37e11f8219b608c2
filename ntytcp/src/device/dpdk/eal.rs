//! EAL in this process: started by the first who needs it, and then everybody's.

use std::fs;
use std::sync::{Mutex, PoisonError};

use dpdk_sys::{DpdkError, Eal, Errno, RegisteredThread};

use super::pci;
use crate::device::DeviceError;

/// EAL, once it runs, and the options that it was given.
static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

#[derive(Clone)]
struct Running {
    eal: Eal,
    options: Vec<String>,
}

/// A device that EAL is to bring up.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Wanted {
    /// A PCI address in full, and what is behind it.
    Pci(String),
    Virtual(String),
}

impl Wanted {
    fn new(text: &str) -> Self {
        let (name, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
        match pci::address(name) {
            Some(address) => Self::Pci(address + rest),
            None => Self::Virtual(text.to_owned()),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Pci(text) | Self::Virtual(text) => text,
        }
    }

    /// What its port is called, or how that begins.
    fn name(&self) -> &str {
        self.text().split(',').next().unwrap_or_default()
    }

    /// Its port among these.
    fn find<'a>(&self, ports: &'a [String]) -> Option<&'a String> {
        let same = |port: &&String| port.as_str() == self.name();
        let one_of_a_card = |port: &&String| {
            matches!(self, Self::Pci(_))
                && port.strip_prefix(self.name()).is_some_and(|rest| rest.starts_with('_'))
        };
        ports.iter().find(same).or_else(|| ports.iter().find(one_of_a_card))
    }
}

/// What follows `dpdk:`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Request {
    devices: Vec<Wanted>,
    /// The other options of EAL.
    options: Vec<String>,
}

impl Request {
    fn parse(argument: &str) -> Self {
        let mut request = Self::default();
        let mut words = argument.split_whitespace();
        let mut first = true;
        while let Some(word) = words.next() {
            let value = ["-a", "--allow", "--vdev"].iter().find_map(|option| {
                let rest = word.strip_prefix(option)?;
                // Of the short one the value may follow at once; `--allow-x` is another option.
                rest.strip_prefix('=')
                    .or(Some(rest))
                    .filter(|_| rest.is_empty() || rest.starts_with('=') || *option == "-a")
            });
            match value {
                Some("") => request.devices.extend(words.next().map(Wanted::new)),
                Some(device) => request.devices.push(Wanted::new(device)),
                None if first && !word.starts_with('-') => request.devices.push(Wanted::new(word)),
                None => request.options.push(word.to_owned()),
            }
            first = false;
        }
        request
    }

    /// Whether one of these options is given, alone or with its value in the same word.
    fn gives(&self, names: &[&str]) -> bool {
        let is = |option: &String, name: &str| {
            option
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('=') || !name.starts_with("--"))
        };
        self.options.iter().any(|option| names.iter().any(|name| is(option, name)))
    }

    /// All that EAL is started with. Where the user does not say otherwise: no thread but the caller's, which is not pinned; no file
    /// that could be left behind; no device but those that are named; silence.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        if !self.gives(&["-c", "-l", "-s", "-S", "--lcores", "--main-lcore"]) {
            add(&["--lcores", &format!("0@({})", allowed_cpus())]);
        }
        let keeps_files = ["--file-prefix", "--proc-type", "--huge-dir", "--huge-unlink", "--legacy-mem"];
        if self.gives(&["--no-huge"]) {
            if !self.gives(&["--file-prefix", "--proc-type", "--no-shconf"]) {
                add(&["--no-shconf"]);
            }
        } else if !self.gives(&keeps_files) && !self.gives(&["--in-memory"]) {
            add(&["--in-memory"]);
            let shares = |device: &Wanted| device.text().starts_with("net_virtio_user");
            if self.devices.iter().any(shares) && !self.gives(&["--single-file-segments"]) {
                // Another process is to map this memory, and takes few files.
                add(&["--single-file-segments"]);
            }
        }
        if !self.gives(&["--telemetry", "--no-telemetry"]) {
            add(&["--no-telemetry"]);
        }
        if !self.gives(&["--log-level"]) {
            add(&["--log-level=error"]);
        }
        let any_pci = self.devices.iter().any(|device| matches!(device, Wanted::Pci(_)));
        if !any_pci && !self.gives(&["-b", "--block", "--no-pci"]) {
            // One that is no network card is allowed, and so no other; a later device may still name one.
            add(&["-a", "0000:00:00.0"]);
        }
        for device in &self.devices {
            match device {
                Wanted::Pci(text) => add(&["-a", text]),
                Wanted::Virtual(text) => add(&["--vdev", text]),
            }
        }
        arguments.extend(self.options.iter().cloned());
        arguments
    }
}

/// The CPUs that this thread may use, as a list.
fn allowed_cpus() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.map_or("0", str::trim).to_owned()
}

/// Starts EAL with the options and devices in `argument`, as a [`DpdkDevice`](super::DpdkDevice) would, or brings up the devices if it
/// runs already: for programs that make ports of their own, and open them as devices by their names.
///
/// # Errors
/// As [`DpdkDevice::open`](super::DpdkDevice::open); also for options when EAL was started with others.
pub fn start(argument: &str) -> Result<Eal, DeviceError> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    prepare(&mut running, argument, &Request::parse(argument))
}

/// The port that `argument` asks for, brought up: that of the first device that is named, or the first that nobody has opened.
pub(super) fn port(argument: &str) -> Result<(Eal, String), DeviceError> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let request = Request::parse(argument);
    let eal = prepare(&mut running, argument, &request)?;
    let (all, free) = (eal.ports(), eal.free_ports());
    let Some(device) = request.devices.first() else {
        let none = if all.is_empty() {
            "no port: name a device, as in `dpdk:0000:03:00.0` or `dpdk:net_tap0,iface=nty0`; scripts/bind-nic gives a card to DPDK"
                .to_owned()
        } else {
            format!("all ports are open: {}", all.join(", "))
        };
        let first = free.into_iter().next();
        return first.map(|name| (eal, name)).ok_or_else(|| config(argument, &none));
    };
    // Of those that are named, the first that is not open.
    let named = request.devices.iter().find_map(|device| device.find(&free));
    let name = named.or_else(|| device.find(&all)).ok_or_else(|| {
        let error = DpdkError::NoPort { name: device.name().to_owned(), ports: all.join(", ") };
        explain(argument, &error)
    })?;
    Ok((eal, name.clone()))
}

fn prepare(running: &mut Option<Running>, argument: &str, request: &Request) -> Result<Eal, DeviceError> {
    let known = running.as_ref().map(|running| running.eal.ports()).unwrap_or_default();
    let missing = || request.devices.iter().filter(|device| device.find(&known).is_none());
    for device in missing() {
        if let Wanted::Pci(_) = device {
            pci::check(device.name()).map_err(|what| config(argument, &what))?;
        }
    }
    if let Some(Running { eal, options }) = running {
        if !request.options.is_empty() && request.options != *options {
            let what = format!(
                "EAL runs already, with `{}`: it has its options from the first dpdk device, so give them all there",
                options.join(" ")
            );
            return Err(config(argument, &what));
        }
        for device in missing() {
            eal.attach(device.text()).map_err(|error| explain(argument, &error))?;
        }
        return Ok(*eal);
    }
    let arguments = request.arguments();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let eal = Eal::init(&words).map_err(|error| explain(argument, &error))?;
    *running = Some(Running { eal, options: request.options.clone() });
    Ok(eal)
}

/// Gives the calling thread a cache of its own in every pool, once, until it ends.
#[inline]
pub(super) fn know_this_thread() {
    thread_local! {
        static KNOWN: Option<RegisteredThread> = {
            let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone();
            running.and_then(|running| running.eal.register_thread().ok())
        };
    }
    KNOWN.with(|_| ());
}

fn config(argument: &str, what: &str) -> DeviceError {
    DeviceError::Config(format!("dpdk:{argument}: {what}"))
}

/// The error with the remedy that the user of a command has.
pub(super) fn explain(argument: &str, error: &DpdkError) -> DeviceError {
    const NO_MEMORY: &str = "`scripts/hugepages 512` reserves 1 GB of hugepages (as root), and --no-huge -m 512 --iova-mode=va does \
                             without any, half as fast";
    match error {
        DpdkError::Memory(errno) => {
            config(argument, &format!("EAL gets no hugepages ({errno}): {NO_MEMORY}"))
        }
        DpdkError::Call { call, errno: Errno::ENOMEM, .. } => {
            config(argument, &format!("{call} finds too little memory: {NO_MEMORY}"))
        }
        other => config(argument, &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(argument: &str) -> String {
        Request::parse(argument).arguments().join(" ")
    }

    #[test]
    fn a_device_is_named_with_or_without_options_of_eal() {
        let wanted = |argument: &str| Request::parse(argument).devices;
        let (tap, card) =
            (Wanted::Virtual("net_tap0,iface=x".into()), Wanted::Pci("0000:03:00.1,a=b".into()));
        assert_eq!(wanted("net_tap0,iface=x"), std::slice::from_ref(&tap));
        assert_eq!(wanted("03:00.1,a=b -l 2"), std::slice::from_ref(&card));
        for both in ["-a 0000:03:00.1,a=b --vdev=net_tap0,iface=x", "-a03:00.1,a=b --vdev net_tap0,iface=x"] {
            assert_eq!(wanted(both), [card.clone(), tap.clone()], "{both}");
        }
        assert_eq!(wanted("-l 2 --no-huge"), []);
        assert_eq!(Request::parse("net_null0 -l 2 --allow-x").options, ["-l", "2", "--allow-x"]);
    }

    #[test]
    fn nothing_is_left_behind_unless_the_user_says_where() {
        let text = arguments("net_null0");
        assert!(
            text.contains("--in-memory --no-telemetry --log-level=error -a 0000:00:00.0 --vdev net_null0"),
            "{text}"
        );
        assert!(text.starts_with("--lcores 0@("), "{text}");
        assert!(arguments("net_virtio_user0,path=x").contains("--in-memory --single-file-segments"));
        for own in ["--file-prefix x", "--huge-unlink", "--huge-dir=/mnt", "--no-huge", "--in-memory"] {
            let text = arguments(&format!("net_null0 {own}"));
            assert_eq!(text.matches("--in-memory").count(), usize::from(own == "--in-memory"), "{text}");
            assert_eq!(text.contains("--no-shconf"), own == "--no-huge", "{text}");
        }
    }

    #[test]
    fn what_the_user_says_is_not_said_again() {
        let own = "-l3 --no-telemetry --log-level *:debug --no-pci --vdev net_null0";
        assert_eq!(
            arguments(own),
            "--in-memory --vdev net_null0 -l3 --no-telemetry --log-level *:debug --no-pci"
        );
        assert!(!arguments("03:00.0").contains("0000:00:00.0"));
        assert!(arguments("-l 1").contains("-a 0000:00:00.0"), "nobody named a card");
    }

    #[test]
    fn a_card_may_have_several_ports() {
        let ports = ["net_null0", "0000:03:00.0_port1", "0000:03:00.1"].map(String::from);
        assert_eq!(Wanted::new("03:00.0").find(&ports), Some(&ports[1]));
        assert_eq!(Wanted::new("03:00.1").find(&ports), Some(&ports[2]));
        assert_eq!(Wanted::new("net_null").find(&ports), None);
        assert_eq!(Wanted::new("net_null0,size=9").find(&ports), Some(&ports[0]));
    }
}
