import type { Engine, EngineOptions } from "klatch";

/** An engine that runs, with a log in a temporary folder and a free port; both are gone once it has stopped. */
export function engine(options?: EngineOptions): Promise<Engine>;
