//! Everything that goes wrong, at random: in guests, with QEMU, at sockets, and with the gateway.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use qga_e2e::sim::{Act, Attack, Commands, Latency, Moment, Random, Rule};

use crate::Run;
use crate::guests::{Guests, HOSTILE, OUTSIDERS};
use crate::host::Restart;

/// From one fault to the next, for a thousand VMs.
const PAUSE: Duration = Duration::from_millis(250);
/// What a guest's fault may cost beyond its own time: the gateway comes back to the VM, finds that
/// it is frozen, and thaws, with timeouts and repeats in between.
const RECOVERY: Duration = Duration::from_secs(20);
/// How long somebody hostile is there.
const VISIT: Duration = Duration::from_secs(2);

/// When the gateway is restarted, in parts of a hundred of the run. The process that is measured has
/// then lived for a third of the run: what it keeps, up to a bound, for those who come again is full.
const RESTARTS: [(u32, Restart); 5] = [
    (3, Restart::HandOver),
    (6, Restart::Killed),
    (9, Restart::Stopped),
    (12, Restart::HandOver),
    (15, Restart::Killed),
];
/// From one reload to the next.
const RELOAD: Duration = Duration::from_secs(17);

/// Damages guests until the run is over.
pub(crate) async fn guests(run: Arc<Run>) {
    let mut random = Random::new(run.seed.rotate_left(31));
    let scale = 1000.0 / f64::from(u32::try_from(run.guests.count()).unwrap_or(u32::MAX));
    // Each ends by itself; the runtime waits for none.
    while run.pause(PAUSE.mul_f64(scale.clamp(0.2, 8.0))).await {
        let random = Random::new(random.number());
        tokio::spawn(damage(run.clone(), random));
    }
}

async fn damage(run: Arc<Run>, mut random: Random) {
    let number = run.any(&mut random);
    let Some(_hand) = run.guests.hand(number) else { return };
    let machine = run.guests.machine(number);
    let away = Duration::from_millis(random.below(3000));
    let (name, lasts) = match random.below(20) {
        0..=2 => {
            machine.kill_agent();
            run.book.excuse(number, run.guests.now() + away + RECOVERY);
            tokio::time::sleep(away).await;
            machine.start_agent();
            ("agent killed", Duration::ZERO)
        }
        3 | 4 => {
            machine.kill_qemu(random.once_in(2));
            run.book.excuse(number, run.guests.now() + away + RECOVERY);
            tokio::time::sleep(away).await;
            if let Err(error) = machine.boot() {
                run.book.wrong(format!("the soak itself: booting: {error:#}"));
            }
            ("QEMU killed, booted again", Duration::ZERO)
        }
        5 => {
            machine.reset();
            ("guest reset", Duration::ZERO)
        }
        6..=8 => {
            machine.hang_up();
            ("connection closed", Duration::ZERO)
        }
        9..=13 => {
            machine.rule(rule(&mut random));
            ("a reply lost, late, twice or garbage", Duration::from_secs(30))
        }
        14 | 15 => {
            let most = Duration::from_millis(random.below(400));
            machine.latency(Commands::Calls, Latency::Uniform(Duration::ZERO, most));
            ("slow, or fast again", Duration::ZERO)
        }
        16 => {
            // Only what is frozen can be torn.
            if !machine.truth().says_frozen {
                return;
            }
            if random.once_in(2) {
                machine.tear();
            } else {
                machine.tear_through_agent();
            }
            ("torn", Duration::ZERO)
        }
        17 => {
            run.book.replaced(number);
            if let Err(error) = run.guests.replace(number, random.number()) {
                run.book.wrong(format!("the soak itself: a new machine: {error:#}"));
            }
            ("another VM at the socket", Duration::ZERO)
        }
        18 => {
            let bytes: Vec<u8> =
                (0..random.below(300)).map(|_| random.number().to_le_bytes()[0]).collect();
            machine.say(&bytes);
            ("noise on the wire", Duration::ZERO)
        }
        _ => return elsewhere(&run, &mut random).await,
    };
    run.book.excuse(number, run.guests.now() + lasts + RECOVERY);
    run.book.fault(name);
}

/// What befalls only some.
async fn elsewhere(run: &Run, random: &mut Random) {
    if random.once_in(2) {
        let outsiders = (run.guests.count() / OUTSIDERS) as u64;
        let number = usize::try_from(random.below(outsiders)).unwrap_or(0);
        let number = number * OUTSIDERS + OUTSIDERS - 1;
        if number >= run.guests.count() {
            return;
        }
        debug_assert!(Guests::is_outsider(number));
        run.guests.machine(number).freeze_inside(true);
        run.book.fault("frozen from inside");
        return;
    }
    let number = usize::try_from(random.below(HOSTILE as u64)).unwrap_or(0);
    let attack = *random.pick(&Attack::ALL);
    let hostile = run.guests.hostile(number, attack);
    if hostile.is_ok() {
        tokio::time::sleep(VISIT).await;
        run.book.fault("a hostile guest");
    }
}

fn rule(random: &mut Random) -> Rule {
    let late = Act::Late(Duration::from_millis(random.below(3000)));
    let garbage = Act::Instead(b"{\"return\": [\xFF\xFE\"\n".to_vec());
    let acts = [Act::Lose, Act::Swallow, Act::Repeat, Act::HangUp, garbage, late];
    let commands = [Commands::Any, Commands::Freezes, Commands::Thaws, Commands::Questions];
    Rule {
        commands: *random.pick(&commands),
        moment: *random.pick(&[Moment::Received, Moment::Executed]),
        times: Some(1),
        act: random.pick(&acts).clone(),
    }
}

/// Restarts and reloads the gateway until the run is over.
pub(crate) async fn gateway(run: &Run) -> Result<()> {
    let mut restarts = RESTARTS.iter().peekable();
    let mut reload = Instant::now() + RELOAD;
    while run.elapsed() < run.length {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let due = restarts.next_if(|(part, _)| run.elapsed() > run.length * *part / 100);
        if let Some((_, how)) = due {
            let begun = run.guests.now();
            run.host.restart(*how).await?;
            let now = run.guests.now();
            run.book.excuse_all(now + RECOVERY);
            run.book.fault(match how {
                Restart::HandOver => "gateway restarted (SIGUSR2)",
                Restart::Killed => "gateway killed (SIGKILL)",
                Restart::Stopped => "gateway stopped (SIGTERM), started",
            });
            crate::say(&format!("{how:?}: {} ms without a gateway", (now - begun).as_millis()))?;
        }
        if reload < Instant::now() {
            reload = Instant::now() + RELOAD;
            run.host.reload()?;
            run.book.fault("configuration reloaded (SIGHUP)");
        }
    }
    Ok(())
}
