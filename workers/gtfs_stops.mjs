// The stops of a GTFS feed as GeoJSON, ready for a map. Plain Node.js, no package.
//
// Payload  {"path": "data/cairns_gtfs.zip"}
// Result   {"type": "FeatureCollection", "features": [{"type": "Feature", "id": "750000", "geometry": …}, …]}
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { inflateRawSync } from "node:zlib";

const DEFLATED = 8;

export default async function main({ payload }, damad) {
  const stops = rows(unzip(feed(payload?.path, damad), "stops.txt", damad));
  await damad.dispatch({ type: "gtfs:STOPS_READ", payload: { rows: stops.length } });
  const features = stops.filter((stop) => stop.stop_lat && stop.stop_lon).map(feature);
  console.log(`${features.length} of ${stops.length} stops have a place`);
  return { type: "FeatureCollection", features };
}

// Relative to the working folder, or else to the folder of this worker. What is wrong now will be at the next attempt.
function feed(path, damad) {
  if (typeof path !== "string") throw damad.noRetry('the payload needs a "path", the zip file of a GTFS feed');
  const beside = fileURLToPath(new URL(path, import.meta.url));
  if (!existsSync(path) && !existsSync(beside)) throw damad.noRetry(`${path} is not there`);
  return readFileSync(existsSync(path) ? path : beside);
}

// One file of a zip, found by the directory at its end (APPNOTE.TXT, 4.3.12 and 4.3.16).
function unzip(zip, name, damad) {
  const end = zip.lastIndexOf("PK\x05\x06");
  if (end < 0) throw damad.noRetry("the feed is no zip file");
  for (let at = zip.readUInt32LE(end + 16); zip.readUInt32LE(at) === 0x02014b50; ) {
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((offset) => zip.readUInt16LE(at + offset));
    if (zip.toString("utf8", at + 46, at + 46 + nameLength).split("/").pop() === name) {
      const local = zip.readUInt32LE(at + 42);
      const begin = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28);
      const data = zip.subarray(begin, begin + zip.readUInt32LE(at + 20));
      return (zip.readUInt16LE(at + 10) === DEFLATED ? inflateRawSync(data) : data).toString("utf8");
    }
    at += 46 + nameLength + extraLength + commentLength;
  }
  throw damad.noRetry(`the feed has no ${name}`);
}

// CSV as the GTFS reference has it: a field may be quoted, and a quote in it is doubled.
function rows(text) {
  const lines = [[]];
  for (const [, quoted, plain, after] of text.replace(/^\uFEFF/, "").matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    lines.at(-1).push(quoted?.replaceAll('""', '"') ?? plain.trim());
    if (after !== ",") lines.push([]);
  }
  const [names, ...records] = lines.filter((line) => line.length > 1);
  return records.map((record) => Object.fromEntries(names.map((name, place) => [name, record[place] ?? ""])));
}

function feature({ stop_id, stop_name, stop_lat, stop_lon }) {
  const geometry = { type: "Point", coordinates: [Number(stop_lon), Number(stop_lat)] };
  return { type: "Feature", id: stop_id, geometry, properties: { name: stop_name } };
}
