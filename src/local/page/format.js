// Numbers and times for people, with decimal units and three digits.

const PREFIXES = ["", "k", "M", "G", "T", "P"];

/** [number, unit]: 12345 bytes are ["12.3", "kB"]. */
export function scaled(count, unit) {
  let value = count;
  let step = 0;
  while (value >= 999.5 && step < PREFIXES.length - 1) {
    value /= 1000;
    step += 1;
  }
  const digits = step === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return [value.toFixed(digits), PREFIXES[step] + unit];
}

export const bytes = (count) => scaled(count, "B").join(" ");
export const rate = (count) => scaled(count, "B/s").join(" ");
/** Always in Mbit/s: values that are compared have one unit. */
export const megabits = (count) => `${Math.ceil(count / 1e6)} Mbit/s`;

export function millis(seconds) {
  const value = seconds * 1000;
  return `${value < 10 ? value.toFixed(2) : Math.round(value)} ms`;
}

export function age(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 10) return `${seconds.toFixed(1)} s`;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** The formatted value, or a dash if there is none. */
export const orDash = (value, readable) => (value === null || value === undefined ? "–" : readable(value));
