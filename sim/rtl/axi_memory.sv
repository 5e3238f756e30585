// AXI4 memory of one port. What it does with time is set by inputs, so that one build serves every setting; the fields are those
// of skipopu.machine.memory.MemoryTiming.
//
// A read's first beat comes `latency` cycles after its address, at most rate/256 beats per cycle; `stall` is the probability (of
// 256) that a channel holds back in a cycle. Every `refresh_interval` cycles nothing moves for `refresh` cycles, with `refresh_together` in
// all ports at once, else evenly spread over the interval. A write burst takes the
// data bus for its beats and two turnarounds. Addresses come at most every `issue` cycles, `outstanding` bursts are in flight, and
// a change of channel (address bits from `channel` up) waits until all are answered. With `reorder`
// responses of different IDs overtake and interleave. Addresses at or above `limit` answer DECERR. The `bad_read`th read and the
// `bad_write`th write burst (from 1, since the last load) are answered as `bad_kind` says: 0 SLVERR, 1 DECERR, 2 with another ID, 3 not while
// it says so, 4 without a last beat, 5 with nothing but last beats, 6 and then once more, the last beat or the response; 7 the address, 8 the
// data are not taken while it says so. `renew`: settings are others, what goes by chance and by time begins anew.
module axi_memory #(
    parameter DATA = 128,
    parameter WORDS = 1 << 20,
    parameter PORT = 0,
    parameter PORTS = 1
) (
    input clk, input rst,
    input [15:0] latency, input [8:0] rate, input [7:0] stall, input [31:0] seed, input [39:0] limit, input load, input dump, input renew,
    input [15:0] refresh_interval, input [15:0] refresh, input refresh_together, input [7:0] turnaround, input [7:0] issue, input [6:0] outstanding,
    input [5:0] channel, input reorder, input [31:0] bad_read, input [31:0] bad_write, input [3:0] bad_kind,
    input [39:0] araddr, input [7:0] arlen, input [1:0] arid, input [2:0] arsize, input [1:0] arburst,
    input arvalid, output arready,
    output reg [DATA-1:0] rdata, output reg [1:0] rid, output reg [1:0] rresp, output reg rlast, output reg rvalid, input rready,
    input [39:0] awaddr, input [7:0] awlen, input [1:0] awid, input [2:0] awsize, input [1:0] awburst,
    input awvalid, output awready,
    input [DATA-1:0] wdata, input [DATA/8-1:0] wstrb, input wlast, input wvalid, output wready,
    output [1:0] bid, output reg [1:0] bresp, output reg bvalid, input bready
);
    localparam SHIFT = $clog2(DATA / 8);
    localparam DEPTH = 64;

    reg [DATA-1:0] mem [0:WORDS-1];
    string directory;
    integer file, count_read, i;
    initial if ($value$plusargs("IMAGE=%s", directory)) begin end
    always @(posedge load) begin
        file = $fopen($sformatf("%s/port%0d.bin", directory, PORT), "rb");
        // Each word's bytes stand highest first in the file.
        if (file != 0) begin
            count_read = $fread(mem, file);
            $fclose(file);
        end
    end
    always @(posedge dump) begin
        $writememh($sformatf("%s/port%0d.hex", directory, PORT), mem, 0, (limit >> SHIFT) - 1);
    end

    reg [31:0] random;
    wire hold_ar = random[7:0] < stall, hold_r = random[15:8] < stall, hold_aw = random[23:16] < stall;
    wire hold_w = {random[27:24], random[3:0]} < stall, hold_b = {random[31:28], random[11:8]} < stall;

    // Time
    reg [31:0] cycle, number, next_issue, reads, writes;
    reg [15:0] since_refresh;
    reg [15:0] occupied; // cycles until the bus reads again
    reg [9:0] credit;
    // This port's first refresh begins that much before the interval's end; the first port's at its end.
    wire [31:0] ahead = refresh + (refresh_together ? 0 : (PORTS - PORT) % PORTS * refresh_interval / PORTS);
    wire [15:0] since_first = ahead >= refresh_interval && refresh_interval != 0 ? ahead - refresh_interval : ahead;
    wire [31:0] random_first = seed * 32'h9e3779b9 + (PORT + 1) * 32'h85ebca6b + 1;
    wire refreshing = refresh != 0 && since_refresh < refresh;

    // Reads: a queue per ID, in which bursts are answered in order; across IDs the oldest goes first, or any with `reorder`
    reg [39:0] queue_address [0:4*DEPTH-1];
    reg [7:0] queue_length [0:4*DEPTH-1];
    reg [31:0] queue_time [0:4*DEPTH-1];
    reg [31:0] queue_number [0:4*DEPTH-1];
    reg queue_bad [0:4*DEPTH-1];
    reg [5:0] head [0:3];
    reg [5:0] tail [0:3];
    reg [6:0] waiting [0:3];
    reg [7:0] beat [0:3];
    reg [6:0] in_flight;
    reg [39:0] last_channel;
    wire same_channel = (araddr >> channel) == last_channel;
    wire next_bad = reads + 1 == bad_read;
    assign arready = in_flight < outstanding && cycle >= next_issue && !hold_ar && (same_channel || in_flight == 0)
        && !(next_bad && bad_kind == 7);
    wire accepted = arvalid && arready;
    reg once_more;
    wire can_send = credit >= 256 && occupied == 0 && !refreshing && !hold_r && (!rvalid || rready) && !once_more;
    reg chosen_valid;
    reg [1:0] chosen, k;
    always @(*) begin
        chosen_valid = 0;
        chosen = 0;
        for (i = 0; i < 4; i = i + 1) begin
            k = i[1:0] + (reorder ? random[13:12] : 2'd0);
            if (waiting[k] != 0 && cycle >= queue_time[{k, head[k]}]
                && (!chosen_valid || (!reorder && queue_number[{k, head[k]}] < queue_number[{chosen, head[chosen]}]))) begin
                chosen_valid = 1;
                chosen = k;
            end
        end
    end
    wire [7:0] first = {chosen, head[chosen]};
    wire [39:0] address = queue_address[first] + ({32'b0, beat[chosen]} << SHIFT);
    wire bad = queue_bad[first];
    wire advance = chosen_valid && can_send && !(bad && bad_kind == 3);
    wire finished = advance && beat[chosen] == queue_length[first];

    // Writes: one burst at a time
    reg writing, answering, bad_answer, answered_twice;
    reg [39:0] write_address;
    reg [15:0] write_beats;
    assign bid = bad_answer && bad_kind == 2;
    assign awready = !writing && !answering && !bvalid && !hold_aw && !(writes + 1 == bad_write && bad_kind == 7);
    assign wready = writing && !hold_w && !refreshing && !(bad_answer && bad_kind == 8);
    wire written = wvalid && wready;

    always @(posedge clk) begin
        if (rst) begin
            random <= random_first;
            {cycle, number, next_issue, reads, writes, in_flight, occupied, last_channel} <= 0;
            {rvalid, once_more, writing, answering, bad_answer, answered_twice, bvalid} <= 0;
            for (i = 0; i < 4; i = i + 1) begin
                head[i] <= 0; tail[i] <= 0; waiting[i] <= 0; beat[i] <= 0;
            end
            credit <= 256;
            since_refresh <= since_first;
        end else begin
            random <= {random[30:0], random[31] ^ random[21] ^ random[1] ^ random[0]};
            cycle <= cycle + 1;
            since_refresh <= since_refresh + 1 >= refresh_interval ? 0 : since_refresh + 1;
            credit <= credit + {1'b0, rate} - (advance ? 10'd256 : 10'd0) > 512 ? 512
                    : credit + {1'b0, rate} - (advance ? 10'd256 : 10'd0);
            if (occupied != 0) occupied <= occupied - 1;
            if (accepted) begin
                queue_address[{arid, tail[arid]}] <= araddr;
                queue_length[{arid, tail[arid]}] <= arlen;
                queue_time[{arid, tail[arid]}] <= cycle + {16'b0, latency};
                queue_number[{arid, tail[arid]}] <= number;
                queue_bad[{arid, tail[arid]}] <= next_bad;
                tail[arid] <= tail[arid] + 1;
                number <= number + 1;
                reads <= reads + 1;
                next_issue <= cycle + {24'b0, issue};
                last_channel <= araddr >> channel;
            end
            for (i = 0; i < 4; i = i + 1)
                waiting[i] <= waiting[i] + {6'b0, accepted && arid == i[1:0]} - {6'b0, finished && chosen == i[1:0]};
            in_flight <= in_flight + {6'b0, accepted} - {6'b0, finished};
            if (rready) rvalid <= 0;
            if (once_more && rready) {rvalid, once_more} <= 2'b10;  // as it was
            if (finished && bad && bad_kind == 6) once_more <= 1;
            if (advance) begin
                rvalid <= 1;
                rdata <= address < limit ? mem[address >> SHIFT] : 0;
                rresp <= address >= limit || (bad && bad_kind == 1) ? 3 : bad && bad_kind == 0 ? 2 : 0;
                rid <= bad && bad_kind == 2 ? 3 : chosen;
                rlast <= bad && (bad_kind == 4 || bad_kind == 5) ? bad_kind == 5 : finished;
                beat[chosen] <= finished ? 0 : beat[chosen] + 1;
                if (finished) head[chosen] <= head[chosen] + 1;
            end
            if (awvalid && awready) begin
                writing <= 1;
                write_address <= awaddr;
                write_beats <= {8'b0, awlen} + 1;
                writes <= writes + 1;
                bad_answer <= writes + 1 == bad_write;
                bresp <= writes + 1 != bad_write || bad_kind > 1 ? 0 : bad_kind == 1 ? 3 : 2;
            end
            if (written) begin
                if (write_address < limit) begin
                    for (i = 0; i < DATA / 8; i = i + 1)
                        if (wstrb[i]) mem[write_address >> SHIFT][8*i +: 8] <= wdata[8*i +: 8];
                end else bresp <= 3;
                write_address <= write_address + DATA / 8;
                if (wlast) begin
                    writing <= 0;
                    occupied <= occupied + write_beats + 2 * {8'b0, turnaround};
                end
            end
            if (bvalid && bready) bvalid <= bad_answer && bad_kind == 6 && !answered_twice;
            if (bvalid && bready) answered_twice <= bad_answer && bad_kind == 6 && !answered_twice;
            if (load) {reads, writes} <= 0;
            if (renew) begin
                random <= random_first;
                since_refresh <= since_first;
                credit <= 256;
            end
            if (written && wlast) answering <= 1;
            else if (answering && !hold_b && !(bad_answer && bad_kind == 3)) begin
                answering <= 0;
                bvalid <= 1;
            end
        end
    end
endmodule
