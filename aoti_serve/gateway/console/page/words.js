/** Numbers, sizes and times as people read them. */

export const digits = (value, most = 3) =>
  value === null || value === undefined ? "–" : Number(value.toPrecision(most)).toLocaleString("en", { maximumFractionDigits: Math.max(3, most) });

export function rate(value) {
  if (value === null) return "–";
  return value >= 100 ? Math.round(value).toLocaleString("en") : digits(value, 2);
}

export function size(bytes) {
  let left = bytes;
  for (const unit of ["B", "KB", "MB"]) {
    if (left < 1024) return `${unit === "B" ? left : left.toFixed(1)} ${unit}`;
    left /= 1024;
  }
  return `${left.toFixed(1)} GB`;
}

export function age(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return seconds < 10 ? "a moment" : `${10 * Math.floor(seconds / 10)} s`;
}

export const ago = (when) => `${age(Date.now() / 1000 - when)} ago`;
export const share = (part) => `${digits(100 * part)} %`;
export const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
export const short = (digest) => digest.slice(0, 12) || "–";
/** The last part of a replica's name, by which people tell it from the others. */
export const named = (replica) => replica.split("#").pop();
