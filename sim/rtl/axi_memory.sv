// AXI4 memory of one port: latency, sustained rate and random stalls are inputs, so that one build serves every setting.
//
// Reads are answered in order, the first beat `latency` cycles after its address, at most rate/256 beats per cycle.
// Addresses at or above `limit` answer DECERR. `stall` is the probability (of 256) that a channel holds back in a cycle.
module axi_memory #(
    parameter DATA = 128,
    parameter WORDS = 1 << 20,
    parameter PORT = 0
) (
    input clk, input rst,
    input [15:0] latency, input [8:0] rate, input [7:0] stall, input [31:0] seed, input [39:0] limit, input dump,
    input [39:0] araddr, input [7:0] arlen, input [1:0] arid, input [2:0] arsize, input [1:0] arburst,
    input arvalid, output arready,
    output reg [DATA-1:0] rdata, output reg [1:0] rid, output reg [1:0] rresp, output reg rlast, output reg rvalid, input rready,
    input [39:0] awaddr, input [7:0] awlen, input [1:0] awid, input [2:0] awsize, input [1:0] awburst,
    input awvalid, output awready,
    input [DATA-1:0] wdata, input [DATA/8-1:0] wstrb, input wlast, input wvalid, output wready,
    output [1:0] bid, output reg [1:0] bresp, output reg bvalid, input bready
);
    localparam SHIFT = $clog2(DATA / 8);
    localparam DEPTH = 16;

    reg [DATA-1:0] mem [0:WORDS-1];
    string directory;
    integer file, count_read, i;
    initial begin
        if ($value$plusargs("IMAGE=%s", directory)) begin
            file = $fopen($sformatf("%s/port%0d.bin", directory, PORT), "rb");
            // Each word's bytes stand highest first in the file.
            if (file != 0) begin
                count_read = $fread(mem, file);
                $fclose(file);
            end
        end
    end
    always @(posedge dump) begin
        $writememh($sformatf("%s/port%0d.hex", directory, PORT), mem, 0, (limit >> SHIFT) - 1);
    end

    reg [31:0] random;
    wire hold_ar = random[7:0] < stall, hold_r = random[15:8] < stall, hold_aw = random[23:16] < stall;
    wire hold_w = {random[27:24], random[3:0]} < stall, hold_b = {random[31:28], random[11:8]} < stall;

    // Reads
    reg [39:0] queue_address [0:DEPTH-1];
    reg [7:0] queue_length [0:DEPTH-1];
    reg [1:0] queue_id [0:DEPTH-1];
    reg [31:0] queue_time [0:DEPTH-1];
    reg [3:0] head, tail;
    reg [4:0] waiting;
    reg [7:0] beat;
    reg [31:0] cycle;
    reg [9:0] credit;
    assign arready = waiting < DEPTH && !hold_ar;
    wire [39:0] address = queue_address[head] + ({32'b0, beat} << SHIFT);
    wire ready = waiting != 0 && cycle >= queue_time[head] && credit >= 256 && !hold_r;
    wire advance = ready && (!rvalid || rready);
    wire finished = advance && beat == queue_length[head];
    wire accepted = arvalid && arready;

    // Writes: one burst at a time
    reg writing, answering;
    reg [39:0] write_address;
    assign bid = 0;
    assign awready = !writing && !answering && !bvalid && !hold_aw;
    assign wready = writing && !hold_w;

    always @(posedge clk) begin
        if (rst) begin
            random <= seed * 32'h9e3779b9 + (PORT + 1) * 32'h85ebca6b + 1;
            {head, tail, waiting, beat, cycle, rvalid, writing, answering, bvalid} <= 0;
            credit <= 256;
        end else begin
            random <= {random[30:0], random[31] ^ random[21] ^ random[1] ^ random[0]};
            cycle <= cycle + 1;
            credit <= credit + {1'b0, rate} - (advance ? 10'd256 : 10'd0) > 512 ? 512
                    : credit + {1'b0, rate} - (advance ? 10'd256 : 10'd0);
            if (accepted) begin
                queue_address[tail] <= araddr;
                queue_length[tail] <= arlen;
                queue_id[tail] <= arid;
                queue_time[tail] <= cycle + {16'b0, latency};
                tail <= tail + 1;
            end
            waiting <= waiting + {4'b0, accepted} - {4'b0, finished};
            if (rready) rvalid <= 0;
            if (advance) begin
                rvalid <= 1;
                rdata <= address < limit ? mem[address >> SHIFT] : 0;
                rresp <= address < limit ? 0 : 3;
                rid <= queue_id[head];
                rlast <= beat == queue_length[head];
                beat <= finished ? 0 : beat + 1;
                if (finished) head <= head + 1;
            end
            if (awvalid && awready) begin
                writing <= 1;
                write_address <= awaddr;
                bresp <= 0;
            end
            if (wvalid && wready) begin
                if (write_address < limit) begin
                    for (i = 0; i < DATA / 8; i = i + 1)
                        if (wstrb[i]) mem[write_address >> SHIFT][8*i +: 8] <= wdata[8*i +: 8];
                end else bresp <= 3;
                write_address <= write_address + DATA / 8;
                if (wlast) writing <= 0;
            end
            if (bvalid && bready) bvalid <= 0;
            if (wvalid && wready && wlast) answering <= 1;
            else if (answering && !hold_b) begin
                answering <= 0;
                bvalid <= 1;
            end
        end
    end
endmodule
